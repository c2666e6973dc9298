"""Codecs: what comes back, in how many bytes, and the stream that seals blocks of tokens as they are due."""

from __future__ import annotations

import math

import pytest
import torch
from exact_members import ExactBlocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small import TOKEN_BYTES, ids, logits_of, model, same
from torch import Tensor

from kvlab import Cache, Int8, Quantize
from kvlab.codecs import Codec
from kvlab.stores.fixed import FixedStream
from kvlab.stores.stream import GrowingStream


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def int8_bound(x: Tensor) -> Tensor:
    """Half a step, and what rounding the scale to float16 adds to 127 steps, per vector of the last axis."""
    largest = x.double().abs().amax(-1, keepdim=True)
    step = largest / 127
    rounding = torch.maximum(step * 2**-11, torch.full_like(step, 2**-25))  # normal, subnormal float16
    return step / 2 + 127.5 * rounding + 1e-6 * largest


class TestInt8:
    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(
        numbers=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
        exponent=st.integers(-30, 22),
        dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    )
    def test_error_is_at_most_half_a_step(self, numbers, exponent: int, dtype: torch.dtype) -> None:
        x = (torch.tensor(numbers) * 2.0**exponent).to(dtype).reshape(1, 1, 1, -1)
        if not x.isfinite().all():  # float16 holds less
            return
        back = Int8().decode(Int8().encode(x), torch.float64)
        assert ((back - x.double()).abs() <= int8_bound(x)).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_comes_back_in_the_dtype_asked_for(self, dtype: torch.dtype) -> None:
        x = values(2, 3, 5, 8, dtype=dtype)
        back = Int8().decode(Int8().encode(x), dtype)
        assert (back.dtype, back.shape) == (dtype, x.shape)

    def test_zeros_come_back_as_zeros(self) -> None:
        x = torch.zeros(1, 2, 3, 4)
        assert torch.equal(Int8().decode(Int8().encode(x), torch.float32), x)

    def test_a_constant_comes_back_within_the_rounding_of_its_scale(self) -> None:
        x = torch.full((1, 1, 1, 8), 3.3)
        assert (Int8().decode(Int8().encode(x), torch.float32) - 3.3).abs().max() <= 3.3 * 2**-11 * 1.01

    def test_one_large_number_does_not_touch_other_tokens_or_heads(self) -> None:
        x = values(1, 2, 3, 8)
        calm = Int8().decode(Int8().encode(x), torch.float32)
        x[0, 1, 2, 0] = 1e6
        wild = Int8().decode(Int8().encode(x), torch.float32)
        assert torch.equal(calm[0, 0], wild[0, 0]) and torch.equal(calm[0, 1, :2], wild[0, 1, :2])

    def test_is_packed_for_real(self) -> None:
        packed = Int8().encode(values(2, 3, 5, 8))
        assert {name: (t.dtype, tuple(t.shape)) for name, t in packed.items()} == {
            "code": (torch.int8, (2, 3, 5, 8)),
            "scale": (torch.float16, (2, 3, 5, 1)),
        }
        assert sum(t.untyped_storage().nbytes() for t in packed.values()) == 2 * 3 * 5 * (8 + 2)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e9])
    def test_refuses_what_it_cannot_hold(self, bad: float) -> None:
        x = values(1, 1, 2, 4)
        x[0, 0, 1, 2] = bad
        with pytest.raises(ValueError, match="NaN, infinite or huge"):
            Int8().encode(x)

    def test_a_refused_step_leaves_the_cache_as_it_was(self) -> None:
        lm = model()
        cache, untouched = Cache(lm, codec=Int8()), Cache(lm, codec=Int8())
        text = ids(1, 9)
        for one in (cache, untouched):
            lm(text[:, :5], one)
        weight = lm.layers[2].self_attn.v_proj.weight
        weight.mul_(1e12)  # in the last layer: the others have encoded by then
        with pytest.raises(ValueError, match="Int8"):
            lm(text[:, 5:7], cache)
        weight.div_(1e12)
        assert torch.equal(lm(text[:, 5:], cache), lm(text[:, 5:], untouched))

    @pytest.mark.parametrize("knobs", [{}, {"store": "static", "capacity": 30}], ids=["dynamic", "static"])
    def test_logits_stay_near(self, knobs: dict) -> None:
        lm, text = model(), ids(1, 24)
        cache = Cache(lm, codec=Int8(), **knobs)
        first = lm(text[:, :12], cache)
        assert same(first[0], logits_of(text[0].tolist())[:12])  # the prompt itself is computed exactly
        rest = torch.cat([lm(text[:, i : i + 1], cache)[0] for i in range(12, 24)])
        error = (rest - logits_of(text[0].tolist())[12:]).abs().max().item()
        assert 1e-6 < error < 0.5  # of logits about 5 in size: lossy, but not broken


CODECS = {
    "exact blocks": ExactBlocks(),
    "no sink": ExactBlocks(4, 3, 0),
    "no residual": ExactBlocks(4, 0, 2),
    "token by token": ExactBlocks(1, 0, 0),
    "token by token, residual": ExactBlocks(1, 3, 0),
    "token by token, sink": ExactBlocks(1, 0, 2),
    "large blocks": ExactBlocks(16, 1, 5),
}


def grown(codec: Codec, *chunks: int, seed: int = 0) -> tuple[GrowingStream, Tensor]:
    """A stream that took chunks of these sizes, and all that it was given."""
    x, stream, start = values(2, 3, sum(chunks), 4, seed=seed), GrowingStream(codec), 0
    for tokens in chunks:
        stream.append(x[:, :, start : start + tokens])
        start += tokens
        assert torch.equal(stream.read(), x[:, :, :start])  # exact before it is sealed
        stream.seal()
        assert torch.equal(stream.read(), x[:, :, :start])
    return stream, x


class TestStream:
    def test_seals_whole_blocks_behind_sinks_and_before_the_residual(self) -> None:
        stream, _ = grown(ExactBlocks(block=4, residual=3, sink=2), 1)
        sizes = []
        for _ in range(13):
            sizes.append((stream.first.used, stream.sealed_slots, stream.rest.used))
            stream.append(values(2, 3, 1, 4))
            stream.seal()
        assert sizes == [
            *[(n, 0, 0) for n in (1, 2)],
            *[(2, 0, n) for n in range(1, 7)],
            *[(2, 4, n) for n in range(3, 7)],
            (2, 8, 3),
        ]

    @pytest.mark.parametrize("name", CODECS)
    @pytest.mark.parametrize("chunks", [(1,) * 15, (15,), (2, 9, 1, 3), (40,)], ids=str)
    def test_reads_and_gathers_what_was_given(self, name: str, chunks: tuple[int, ...]) -> None:
        stream, x = grown(CODECS[name], *chunks)
        assert stream.slots == x.shape[2]
        rows = torch.randint(0, x.shape[2], (2, 3, 6), generator=torch.Generator().manual_seed(2))
        got, read = stream.gather(rows)
        assert torch.equal(got, x.gather(2, rows.unsqueeze(-1).expand(-1, -1, -1, 4)))
        assert 0 < read <= max(stream.nbytes, 2 * 6 * 2 * 3 * 4 * 4)

    def test_exact_entries_at_the_ends_are_read_for_their_own_columns_only(self) -> None:
        codec = Quantize(8, group_size=None, residual=3, sink=2)
        stream, x = GrowingStream(codec), values(1, 2, 20, 4)
        stream.append(x)
        stream.seal()
        assert (stream.first.used, stream.sealed_slots, stream.rest.used) == (2, 15, 3)
        rows = torch.tensor([[[0, 5, 6, 7, 16, 19], [3, 5, 9, 11, 12, 16]]])  # the last two columns differ
        got, read = stream.gather(rows)
        assert torch.equal(got, stream.read().gather(2, rows.unsqueeze(-1).expand(-1, -1, -1, 4)))
        coded, exact = 4 + 2 + 2, 4 * 4  # bytes: codes, scale, minimum; float32
        assert read == 2 * 6 * coded + 2 * (1 + 1) * exact  # one column of sinks, one of the newest

    @pytest.mark.parametrize("name", CODECS)
    def test_crop_to_every_length_and_on(self, name: str) -> None:
        for n in range(24):
            stream, x = grown(CODECS[name], 9, 1, 13)
            stream.crop(n)
            assert stream.slots == n
            stream.append(x[:, :, n : n + 7])
            assert torch.equal(stream.read(), x[:, :, : n + 7])
            stream.seal()
            assert torch.equal(stream.read(), x[:, :, : n + 7])
            codec = CODECS[name]
            assert stream.first.used <= codec.sink and stream.sealed_slots % codec.block == 0
            if stream.slots >= codec.sink + codec.residual + codec.block:
                assert stream.rest.used < codec.residual + codec.block

    @pytest.mark.parametrize("name", CODECS)
    def test_keep_frees_the_rest(self, name: str) -> None:
        stream, x = grown(CODECS[name], 9, 1, 13)
        rows = torch.stack([torch.tensor([0, 3, 4, 11, 22]), torch.tensor([1, 2, 3, 4, 5])])
        rows = torch.stack([rows, rows.flip(0)])[:, [0, 1, 0]]  # each row and head its own
        stream.keep(rows)
        assert torch.equal(stream.read(), x.gather(2, rows.unsqueeze(-1).expand(-1, -1, -1, 4)))
        assert stream.nbytes == 5 * 2 * 3 * 4 * 4
        assert sum(t.untyped_storage().nbytes() for t in stream.tensors()) == stream.nbytes

    @pytest.mark.parametrize("name", CODECS)
    def test_reorder_and_fork(self, name: str) -> None:
        stream, x = grown(CODECS[name], 9, 1, 13)
        twin = stream.fork()
        stream.reorder(torch.tensor([1, 1, 0]))
        stream.crop(3)
        assert torch.equal(stream.read(), x[[1, 1, 0]][:, :, :3])
        assert torch.equal(twin.read(), x)

    def test_a_fixed_stream_reads_fresh_entries_exactly_and_old_ones_coded(self) -> None:
        x = values(1, 2, 5, 4)
        stream = FixedStream(Int8(), x[:, :, :1], capacity=8)
        stream.append(x[:, :, :3], torch.arange(3))
        assert torch.equal(stream.read()[:, :, :3], x[:, :, :3])
        stream.seal()
        coded = Int8().decode(Int8().encode(x[:, :, :3]), torch.float32)
        stream.append(x[:, :, 3:], torch.arange(3, 5))
        assert torch.equal(stream.read()[:, :, :5], torch.cat((coded, x[:, :, 3:]), 2))
        got, read = stream.gather(torch.tensor([[[4, 0], [1, 3]]]))
        assert torch.equal(got[0, 0], torch.stack((x[0, 0, 4], coded[0, 0, 0])))
        assert torch.equal(got[0, 1], torch.stack((coded[0, 1, 1], x[0, 1, 3])))


def test_codecs_differ_between_keys_and_values() -> None:
    lm, text = model(), ids(1, 9)
    keys, both = Cache(lm, codec=(Int8(), None)), Cache(lm, codec=Int8())
    for cache in (keys, both):
        lm(text, cache)
    assert both.nbytes < keys.nbytes < 9 * TOKEN_BYTES
    exact, coded = keys.layers[0].values.read(), both.layers[0].values.read()
    assert 0 < (exact - coded).abs().max() < 0.05


def test_a_codec_may_leave_out_layers_and_streams() -> None:
    class FirstKeys(Int8):
        def at(self, layer: int, stream: str) -> Codec | None:
            return self if (layer, stream) == (0, "keys") else None

    lm = model()
    cache = Cache(lm, codec=FirstKeys())
    lm(ids(1, 9), cache)
    assert cache.nbytes == 9 * (TOKEN_BYTES * 5 // 6 + 2 * (4 + 2))
