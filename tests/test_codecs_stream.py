"""The stream behind lossy codecs: sinks under padding, parts decoded alone, and steps that are undone."""

from __future__ import annotations

import pytest
import torch
from exact_members import ExactBlocks
from small import CONFIG, ids, model
from torch import Tensor

from kvlab import KIVI, Cache, Int8, Quantize
from kvlab.codecs import Codec
from kvlab.stores.stream import GrowingStream

CODECS: dict[str, Codec] = {
    "exact blocks": ExactBlocks(4, 3, 2),
    "channels": Quantize(4, "channel", 4, residual=3, sink=2),
    "tokens": Quantize(4, "token", 4, residual=3, sink=2),
    "tokens alone": Int8(),
    "blocks alone": Quantize(2, "tensor", 8),
}


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def state(stream: GrowingStream) -> tuple[int, int, int, Tensor]:
    return stream.first.used, stream.sealed_slots, stream.rest.used, stream.read().clone()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("chunks", [(1,), (7, 1, 1), (21, 5), (40,)], ids=str)
def test_a_part_decoded_alone_is_that_part_of_the_whole(name: str, chunks: tuple[int, ...]) -> None:
    stream = GrowingStream(CODECS[name])
    for n in chunks:
        stream.append(values(2, 3, n, 8))
        stream.seal()
    whole = stream.read()
    for start in range(stream.slots):
        for stop in range(start + 1, stream.slots + 1):
            assert torch.equal(stream.span(start, stop), whole[:, :, start:stop])


def test_a_part_decodes_only_its_own_blocks() -> None:
    seen: list[int] = []

    class Watched(ExactBlocks):
        def decode(self, packed, dtype):
            seen.append(packed["left"].shape[2])
            return super().decode(packed, dtype)

    stream = GrowingStream(Watched(4, 0, 2))
    stream.append(values(1, 1, 42, 8))
    stream.seal()
    stream.span(7, 13)  # 5 to 11 of the sealed ones, which lie in blocks 1 and 2
    assert seen == [2]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("before", [0, 1, 5, 9, 30])
@pytest.mark.parametrize("tokens", [1, 4, 19])
def test_a_step_that_is_undone_leaves_no_trace(name: str, before: int, tokens: int) -> None:
    stream = GrowingStream(CODECS[name])
    if before:
        stream.append(values(1, 2, before, 8))
        stream.seal()
        stream.commit()
        was = state(stream)
    stream.append(values(1, 2, tokens, 8))
    stream.seal()
    stream.undo(before)
    assert stream.slots == before
    if before:
        now = state(stream)
        assert now[:3] == was[:3] and torch.equal(now[3], was[3])


def test_a_cache_whose_step_raised_goes_on_as_if_it_had_not() -> None:
    lm = model()
    codec = KIVI(2, group_size=4, residual=4, sink=2)
    cache, untouched = Cache(lm, codec=codec), Cache(lm, codec=codec)
    text = ids(1, 40)
    for one in (cache, untouched):
        lm(text[:, :13], one)
    weight = lm.layers[2].self_attn.v_proj.weight
    weight.mul_(1e12)  # in the last layer: the others have sealed older tokens by then
    with pytest.raises(ValueError, match="cannot encode"):
        lm(text[:, 13:33], cache)
    weight.div_(1e12)
    assert torch.equal(lm(text[:, 13:], cache), lm(text[:, 13:], untouched))
    assert cache.nbytes == untouched.nbytes


@pytest.mark.parametrize("padding", [0, 1, 6, 11])
def test_the_first_tokens_of_every_row_stay_exact_under_left_padding(padding: int) -> None:
    lm, sink = model(), 3
    text, mask = ids(2, 13), torch.ones(2, 13, dtype=torch.bool)
    mask[1, :padding] = False
    lossy = Cache(lm, codec=Quantize(2, group_size=4, sink=sink))
    exact = Cache(lm)
    for cache in (lossy, exact):
        lm(text, cache, mask)
    for one, other in zip(lossy.layers, exact.layers, strict=True):
        for row, first in ((0, 0), (1, padding)):
            last = min(first + sink, 13)
            for stream in ("keys", "values"):
                kept, wanted = (getattr(layer, stream).read()[row, :, first:last] for layer in (one, other))
                assert torch.equal(kept, wanted)
        assert one.keys.first.used == min(padding + sink, 13)
    if padding == 11:  # two tokens so far: the third sink comes with the next step
        lm(ids(2, 1), lossy)
        assert lossy.layers[0].keys.first.used == 14


def test_sinks_without_padding_are_the_first_slots() -> None:
    lm = model()
    cache = Cache(lm, codec=KIVI(4, group_size=4, residual=0, sink=3))
    lm(ids(2, 2), cache)
    lm(ids(2, 9), cache)
    assert [cache.layers[0].keys.first.used, cache.layers[0].keys.sealed_slots] == [3, 8]
    numbers = 2 * CONFIG.num_key_value_heads * CONFIG.head_dim
    assert cache.nbytes == 3 * 2 * numbers * (3 * 8 + 8 * (4 + 8) / 8)  # of 11 tokens: 3 exact, 8 coded
