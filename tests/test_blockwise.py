"""Attention over packed entries, a block at a time: the same logits, and never a whole layer decoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import ids, model
from torch import Tensor

from kvlab import KIVI, Cache, CacheError, Hadamard, Int8, Quantize, SinkRecent, TopK
from kvlab.codecs import Codec

TOLERANCE = 1e-10

CASES: dict[str, dict[str, Any]] = {
    "exact": {},
    "KIVI": {"codec": KIVI(4, group_size=4, residual=3, sink=2)},
    "keys stored plain": {"codec": (Quantize(4, "channel", 4, plain_keys=True), Int8())},
    "rotated": {"codec": Hadamard(Quantize(8, group_size=4))},
    "static": {"store": "static", "capacity": 40, "batch": 2, "codec": Int8()},
    "static, keys stored plain": {
        "store": "static", "capacity": 40, "batch": 2, "codec": Quantize(4, group_size=4, plain_keys=True),
    },
    "static, exact": {"store": "static", "capacity": 40, "batch": 2},
    "hybrid": {"store": "hybrid", "codec": Int8()},
    "hybrid, static": {"store": "hybrid", "capacity": 40, "batch": 2, "codec": Int8()},
    "eviction": {"codec": Int8(), "eviction": SinkRecent(2, 9)},
    "selection": {"codec": Int8(), "selection": TopK(6)},
}  # fmt: skip


def decoded(lm, text: Tensor, mask: Tensor, **knobs: Any) -> Tensor:
    """Logits of a left-padded prompt, and of tokens one by one."""
    cache = Cache(lm, **knobs)
    logits = [lm(text[:, :17], cache, mask)[:, -1:]]
    logits += [lm(text[:, i : i + 1], cache) for i in range(17, 30)]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("padding", [0, 6])
def test_logits_are_those_of_decoding_all(name: str, size: int, padding: int) -> None:
    lm, text = model(), ids(2, 30)
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[1, :padding] = False
    whole = decoded(lm, text, mask, **CASES[name])
    parts = decoded(lm, text, mask, **CASES[name], blockwise=size)
    assert (parts - whole).abs().max() < TOLERANCE


def test_no_more_than_a_block_is_ever_decoded() -> None:
    sizes: list[int] = []

    class Watched(Quantize):
        def decode(self, packed, dtype):
            x = super().decode(packed, dtype)
            sizes.append(x.shape[2])
            return x

    lm, text = model(), ids(1, 120)
    for blockwise, most in ((None, 112), (16, 16 + 8)):  # a block of the codec may lie across the border
        cache = Cache(lm, codec=Watched(4, "channel", 8, residual=3, sink=3), blockwise=blockwise)
        lm(text[:, :110], cache)
        sizes.clear()
        for i in range(110, 120):
            lm(text[:, i : i + 1], cache)
        assert max(sizes) == most


def test_refuses_a_block_of_nothing() -> None:
    with pytest.raises(CacheError, match="at least 1, not 0"):
        Cache(model(), codec=Int8(), blockwise=0)


@pytest.mark.parametrize("codec", [Int8(), KIVI(4, group_size=4, residual=4)], ids=lambda c: type(c).__name__)
def test_forks_and_crops_go_on(codec: Codec) -> None:
    lm, text = model(), ids(1, 30)
    cache, whole = Cache(lm, codec=codec, blockwise=5), Cache(lm, codec=codec)
    for one in (cache, whole):
        lm(text[:, :20], one)
        one.crop(13)
    twin = cache.fork()
    for one in (cache, twin):
        assert (lm(text[:, 13:14], one) - lm(text[:, 13:14], whole.fork())).abs().max() < TOLERANCE
