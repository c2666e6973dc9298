"""Huffman and rANS: streams that decode bit for bit, tables and ends counted; and ragged buffers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from codec_paths import normal, same_walk, size
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ids, model

from kvlab import BytePlanes, Cache, CacheError, Chain, ErrorBounded, Huffman, Mustafar, Quantize, Rans
from kvlab.codecs import huffman, rans
from kvlab.codecs.entropy import EntropyCoder, entropy, histogram
from kvlab.codecs.ragged import Ragged
from kvlab.stores.ragged import GrowingRagged

FEW = settings(max_examples=80, deadline=None, derandomize=True, database=None)
CODERS = [Huffman, Rans]


def codes(*shape: int, top: int = 255, spread: float = 20, seed: int = 0) -> torch.Tensor:
    """Bell-shaped codes, uint8."""
    return (normal(*shape, seed=seed) * spread + top / 2).round().clamp(0, top).to(torch.uint8)


def stream_bits(packed: dict) -> int:
    return 8 * sum(p.data.numel() for name, p in packed.items() if name.startswith("stream"))


# --- round trips ---


@st.composite
def inputs(draw) -> tuple[torch.Tensor, dict]:
    bits = draw(st.sampled_from([2, 4, 8]))
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    tokens, blocks = draw(st.integers(2, 9)), draw(st.integers(1, 3))
    rest = draw(st.sampled_from([(4,), (2, 6), (32,)]))
    x = codes(
        *shape,
        tokens * blocks,
        *rest,
        spread=draw(st.sampled_from([0.1, 3, 40, 900])),
        seed=draw(st.integers(0, 99)),
    )
    planes = draw(st.sampled_from([1, 2]))
    counts = torch.randint(0, 50, (2**bits,)) if draw(st.booleans()) else None
    return x, {"bits": bits, "tokens": tokens, "planes": planes, "counts": counts}


@FEW
@given(drawn=inputs(), kind=st.sampled_from(CODERS))
def test_codes_come_back_bit_for_bit(drawn, kind) -> None:
    x, how = drawn
    coder = kind(**how)
    packed = coder.encode(x)
    back = coder.decode(packed)
    assert back.dtype == torch.uint8 and torch.equal(back, x)
    for part in packed.values():
        assert part.shape[:3] == (x.shape[0], x.shape[1], x.shape[2] // how["tokens"])


@pytest.mark.parametrize("kind", CODERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_symbol_only(kind, bits: int) -> None:
    x = torch.zeros(1, 2, 64, 16, dtype=torch.uint8)
    coder = kind(bits, 64)
    packed = coder.encode(x)
    assert torch.equal(coder.decode(packed), x)
    symbols = x.numel() * 8 // bits
    # Huffman has no shorter code than a bit; rANS writes its states and nothing else.
    assert stream_bits(packed) == (symbols if kind is Huffman else 2 * 8 * 32)


@pytest.mark.parametrize("kind", CODERS)
def test_lopsided_symbols(kind) -> None:
    """One symbol in 5,000 is different; and counts that grow like Fibonacci's ask for the longest codes."""
    x = torch.zeros(1, 1, 5000, 1, dtype=torch.uint8)
    x[0, 0, 4321] = 200
    fibonacci = [1, 1]
    while sum(fibonacci) < 30000:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    deep = torch.cat([torch.full((n,), 3 * i, dtype=torch.uint8) for i, n in enumerate(fibonacci)])
    deep = deep[torch.randperm(len(deep), generator=torch.Generator().manual_seed(0))].view(1, 1, -1, 1)
    for one in (x, deep):
        coder = kind(8, one.shape[2])
        assert torch.equal(coder.decode(coder.encode(one)), one)
    assert (
        huffman._tree(np.array(fibonacci)).max()
        > huffman.LIMIT
        >= huffman.code_lengths(np.array(fibonacci)).max()
    )


def test_noise_costs_what_it_is() -> None:
    x = torch.randint(0, 256, (1, 1, 256, 256), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    for kind in CODERS:
        packed = kind(8, 256).encode(x)
        assert 1.0 <= stream_bits(packed) / (8 * x.numel()) < 1.01


# --- Huffman's codes by hand ---


def test_lengths_and_canonical_codes_by_hand() -> None:
    lengths = huffman.code_lengths(np.array([0, 50, 10, 0, 25, 15]))
    assert lengths.tolist() == [0, 1, 3, 0, 2, 3]
    assert huffman.canonical(lengths).tolist() == [0, 0b0, 0b110, 0, 0b10, 0b111]
    data, sizes = huffman.write(
        np.array([[1, 4, 2, 5, 1]], np.uint8), lengths[None], huffman.canonical(lengths)[None]
    )
    assert data.tolist() == [0b01011011, 0b10000000] and sizes.tolist() == [2]


@FEW
@given(st.lists(st.integers(0, 5000), min_size=16, max_size=16).filter(any))
def test_codes_are_prefix_free_and_within_a_bit_of_the_entropy(counts: list[int]) -> None:
    lengths = huffman.code_lengths(np.array(counts)).astype(int)
    used = [s for s in range(16) if counts[s]]
    assert all((lengths[s] > 0) == (counts[s] > 0) for s in range(16))
    kraft = sum(2.0 ** -lengths[s] for s in used)
    assert kraft == 1 or (len(used) == 1 and kraft == 0.5)
    codes_ = huffman.canonical(lengths.astype(np.uint8))
    words = sorted(format(codes_[s], f"0{lengths[s]}b") for s in used)
    assert not any(b.startswith(a) for a, b in zip(words, words[1:], strict=False))
    mean = sum(counts[s] * lengths[s] for s in used) / sum(counts)
    assert entropy(np.array([counts])) <= mean + 1e-9
    assert mean <= entropy(np.array([counts])) + 1


@FEW
@given(st.lists(st.integers(0, 10**6), min_size=16, max_size=16))
def test_frequencies_fill_the_total_and_leave_none_out(counts: list[int]) -> None:
    freq = rans.frequencies(np.array([counts]))[0]
    assert int(freq.sum()) == (rans.TOTAL if any(counts) else 0)
    assert all((f > 0) == (c > 0) for f, c in zip(freq, counts, strict=True))


def test_both_stay_near_the_entropy() -> None:
    x = codes(1, 2, 256, 64, top=15, spread=2)
    bound = entropy(histogram(x.view(2, -1).numpy(), 16))
    huff, fine = (stream_bits(kind(8, 256).encode(x)) / x.numel() for kind in CODERS)
    assert bound <= huff < bound + 0.06 and bound - 0.001 <= fine < bound + 0.02
    assert abs(fine - bound) < abs(huff - bound), "a range coder pays fractions of a bit"


# --- bytes ---


def test_bytes_by_hand() -> None:
    x = codes(2, 3, 128, 16, top=255)
    packed = Huffman(4, tokens=64).encode(x)
    streams = 2 * 3 * 2
    assert packed["table0"].dtype == torch.uint8 and packed["table0"].shape == (2, 3, 2, 8)
    assert size(packed, "like") == 0
    assert size(packed) == packed["stream0"].data.numel() + 4 * streams + 8 * streams
    packed = Rans(8, tokens=64, lanes=3).encode(x)
    assert packed["table0"].shape == (2, 3, 2, 512)
    assert size(packed) == packed["stream0"].data.numel() + (4 + 512) * streams
    packed = Huffman(8, tokens=64, planes=2, counts=torch.ones(256)).encode(x)
    assert set(packed) == {"like", "stream0", "stream1"}
    assert size(packed) == x.numel() + 2 * 4 * streams, "all codes have 8 bits"
    assert size({"t": Huffman(8, counts=torch.ones(256)).shared_tensors()[0]}) == 128
    assert size({"t": Rans(8, counts=torch.ones(256)).shared_tensors()[0]}) == 512


def test_a_cache_counts_streams_tables_and_ends() -> None:
    lm = model()
    cache = Cache(lm, codec=Chain(Quantize(4, "token", None), Huffman(4, tokens=8)))
    lm(ids(1, 19), cache)
    counted = 0
    for layer in cache.layers:
        for stream in (layer.keys, layer.values):
            packed = stream.packed()
            counted += size(packed) + 3 * 2 * 4 * 8  # three tokens are exact
            ragged = packed["code.stream0"]
            assert isinstance(ragged, Ragged) and ragged.ends.shape == (1, 2, 2)
            assert int(ragged.ends.max()) == ragged.data.numel()
    assert cache.nbytes == counted
    assert cache.allocated_bytes >= cache.nbytes


# --- any block by itself ---


@pytest.mark.parametrize("kind", CODERS)
def test_a_block_is_decoded_without_the_others(kind) -> None:
    x = codes(2, 3, 5 * 16, 8)
    coder: EntropyCoder = kind(8, 16)
    packed = coder.encode(x)
    chosen = torch.tensor([3, 1])
    some = {name: part.index_select(2, chosen) for name, part in packed.items()}
    assert some["stream0"].data.numel() < 0.6 * packed["stream0"].data.numel()
    want = x.unflatten(2, (5, 16))[:, :, [3, 1]].flatten(2, 3)
    assert torch.equal(coder.decode(some), want)


# --- a ragged buffer ---


def ragged(batch: int, heads: int, blocks: int, seed: int) -> tuple[Ragged, list]:
    """Streams of 0 to 9 bytes, and the same as lists [block][row][head]."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 10, (batch, heads, blocks), generator=draw)
    data = torch.randint(0, 256, (int(lengths.sum()),), generator=draw).to(torch.uint8)
    cut = iter(data.split(lengths.permute(2, 0, 1).flatten().tolist()))
    return Ragged.pack(data, lengths), [
        [[next(cut).tolist() for _ in range(heads)] for _ in range(batch)] for _ in range(blocks)
    ]


def as_lists(x: Ragged) -> list:
    start, end = x.spans()
    batch, heads, blocks = x.shape
    data = x.data.flatten()
    return [
        [[data[start[b, h, n] : end[b, h, n]].tolist() for h in range(heads)] for b in range(batch)]
        for n in range(blocks)
    ]


@FEW
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 2), to=st.integers(0, 9), seed=st.integers(0, 99),
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=4),
)  # fmt: skip
def test_a_ragged_buffer_appends_crops_selects_and_copies(batch, heads, sizes, to, seed) -> None:
    buffer, want = GrowingRagged(), []
    for i, blocks in enumerate(sizes):
        part, lists = ragged(batch, heads, blocks, seed + i)
        buffer.append(part)
        want += lists
        assert as_lists(buffer.read()) == want
    assert buffer.nbytes == sum(
        len(s) for block in want for row in block for s in row
    ) + 4 * batch * heads * len(want)
    rows = torch.tensor([batch - 1, 0, 0])
    assert as_lists(buffer.read().index_select(0, rows)) == [[block[r] for r in rows] for block in want]
    twin = buffer.empty()
    twin.replace(buffer.read())
    buffer.crop(to)
    assert as_lists(buffer.read()) == want[:to] and as_lists(twin.read()) == want
    part, lists = ragged(batch, heads, 2, seed + 7)
    buffer.append(part)
    assert as_lists(buffer.read()) == want[:to] + lists
    assert not {t.data_ptr() for t in buffer.tensors() if t.numel()} & {t.data_ptr() for t in twin.tensors()}


# --- through the cache ---


@pytest.mark.parametrize(
    "codec",
    [
        Chain(Quantize(4, "token", None), Huffman(4, tokens=3)),
        Chain(Quantize(8, "channel", 2, residual=3, sink=2), Rans(8, tokens=2)),
        Chain(ErrorBounded(0.1, "channel", 2, sink=1), Huffman(4, tokens=4)),
        Chain(BytePlanes(residual=4), Huffman(8, tokens=5, planes=2)),
        Chain(Mustafar(0.5), Chain(Quantize(4, "token", None), Rans(4, tokens=4, lanes=2))),
        ErrorBounded(0.04, "token"), ErrorBounded(0.2, "tensor", 3, plain_keys=True), BytePlanes(),
    ],
    ids=lambda codec: type(codec).__name__,
)  # fmt: skip
def test_through_the_cache(codec) -> None:
    same_walk(codec)


def test_the_coder_changes_nothing() -> None:
    lm, text = model(), ids(1, 30)
    plain, coded = Quantize(4, "channel", 4), Chain(Quantize(4, "channel", 4), Huffman(4, tokens=2))
    caches = [Cache(lm, codec=codec) for codec in (plain, coded)]
    for cache in caches:
        lm(text[:, :16], cache)  # a multiple of both blocks: the same tokens are sealed
    assert torch.equal(lm(text[:, 16:20], caches[0]), lm(text[:, 16:20], caches[1]))


def test_stores_of_fixed_slots_refuse_it() -> None:
    lm = model()
    for kind in CODERS:
        with pytest.raises(CacheError, match="static store"):
            Cache(lm, store="static", capacity=8, codec=Chain(Quantize(4, "token", None), kind(4)))


def test_floats_are_refused_and_the_step_undone() -> None:
    lm, text = model(), ids(1, 12)
    cache = Cache(lm, codec=Huffman(8, tokens=4))
    with pytest.raises(ValueError, match="put it behind a codec"):
        lm(text, cache)
    assert cache.used == 0


@pytest.mark.parametrize(
    ("how", "message"),
    [({"bits": 3}, "2, 4 or 8 bits"), ({"tokens": 1}, "2 tokens or more"), ({"planes": 0}, "more planes"),
     ({"counts": torch.ones(255)}, "counts of 256"), ({"counts": -torch.ones(256)}, "below 0")],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(how: dict, message: str) -> None:
    for kind in CODERS:
        with pytest.raises(ValueError, match=message):
            kind(**how)


def test_lanes_and_planes_are_checked() -> None:
    with pytest.raises(ValueError, match="1 lane or more"):
        Rans(lanes=0)
    with pytest.raises(ValueError, match="2 equal planes"):
        Huffman(8, 2, planes=2).encode(codes(1, 1, 2, 3))


# --- error-bounded ---


@FEW
@given(
    bound=st.sampled_from([1 / 510, 0.01, 0.05, 0.1, 0.25, 0.5]),
    axis=st.sampled_from(["token", "channel", "tensor"]),
    exponent=st.integers(-20, 12), offset=st.sampled_from([0.0, 3.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_error_is_above_the_bound(bound: float, axis, exponent: int, offset: float, seed: int) -> None:
    codec = ErrorBounded(bound, axis, tokens=4)
    x = (normal(2, 2, 8, 8, seed=seed) + offset) * 2.0**exponent
    back = codec.decode(codec.encode(x), torch.float32)
    if axis == "token":
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    else:
        over = (-2,) if axis == "channel" else (-2, -1)
        low, high = (
            getattr(x.unflatten(2, (2, 4)), name)(over, keepdim=True).expand(2, 2, 2, 4, 8).flatten(2, 3)
            for name in ("amin", "amax")
        )
    allowed = bound * (high - low) + 2**-11 * (low.abs() + high - low) + 2**-16
    assert ((back - x).abs() <= allowed * 1.0001).all()


def test_levels_and_bytes_of_a_bound() -> None:
    for bound, steps, bits in (
        (0.5, 1, 2),
        (0.25, 2, 2),
        (0.1, 5, 4),
        (0.05, 10, 4),
        (0.02, 25, 8),
        (1 / 510, 255, 8),
    ):
        codec = ErrorBounded(bound, "channel", tokens=4)
        assert (codec.steps, codec.bits) == (steps, bits)
        packed = codec.encode(normal(1, 2, 8, 16))
        assert packed["code"].dtype == torch.uint8 and packed["code"].shape == (1, 2, 2, 4, 16 * bits // 8)
        assert size(packed) == 2 * 2 * (4 * 16 * bits // 8 + 16 * 4)
    for wrong in (0, 0.0019, 0.51, math.nan):
        with pytest.raises(ValueError, match="bound is the error"):
            ErrorBounded(wrong)
    with pytest.raises(ValueError, match="do not fill"):
        ErrorBounded(0.05).encode(normal(1, 1, 64, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
@pytest.mark.parametrize("codec", [ErrorBounded(0.05, tokens=2), BytePlanes()], ids=["bounded", "planes"])
def test_numbers_that_do_not_fit_are_refused(codec, bad: float) -> None:
    x = normal(1, 1, 2, 8)
    x[0, 0, 1, 3] = bad
    with pytest.raises(ValueError, match="NaN, infinite or huge"):
        codec.encode(x)


def test_planes_hold_float16_exactly() -> None:
    x = normal(1, 2, 3, 8).half()
    packed = BytePlanes().encode(x)
    assert torch.equal(BytePlanes().decode(packed, torch.float16), x)
    low, high = packed["code"].chunk(2, dim=-1)
    assert torch.equal(x.view(torch.int16), (high.to(torch.int16) << 8) | low.to(torch.int16))


@pytest.mark.weights
def test_real_keys_and_values_come_back_bit_for_bit(smollm2) -> None:
    from kvlab.codecs.calibrate import entries
    from kvlab.measure.calibration import calibration_ids

    pairs = entries(smollm2, calibration_ids(smollm2, 1, 128))
    for first, how in (
        (Quantize(4, "token", 32), {"bits": 4}),
        (ErrorBounded(0.05, "token"), {"bits": 4}),
        (BytePlanes(), {"planes": 2}),
    ):
        for keys, values in pairs[::7]:
            for x in (keys, values):
                code = first.encode(x[None, :, :128])["code"]
                for kind in CODERS:
                    coder = kind(tokens=64, **how)
                    assert torch.equal(coder.decode(coder.encode(code)), code)


def test_the_bench_counts_every_bit(tiny) -> None:
    from kvlab.measure.entropy_bench import STAGES, record_entropy
    from kvlab.measure.report import Report

    report = Report("entropy", "a processor", {}, "python -m kvlab bench entropy")
    shown = record_entropy(tiny, 128, 2, report, "tiny")
    assert len(report.rows) == len(STAGES) * 2 * 2 * 2 and "fp16" in shown
    for row in report.rows:
        parts = row["stream_bits"] + row["ends_bits"] + row["table_bits"]
        assert row["exact"] and row["total_bits"] == pytest.approx(parts)
        assert row["stream_bits"] >= row["entropy_bits"] - 1e-9, (
            "no stream is below the entropy of its symbols"
        )
        assert (row["table_bits"] == 0) == (row["tables"] == "shared") == (row["shared_bytes"] > 0)


def test_calibration_text_is_not_what_is_judged(tiny, monkeypatch) -> None:
    from kvlab.measure import calibration, quality_texts

    corpus = ([], list(range(1, 180_001)))  # each token says where it is
    monkeypatch.setattr(calibration, "_tokens", lambda lm: corpus)
    monkeypatch.setattr(quality_texts, "_tokens", lambda lm: corpus)
    learned = set(calibration.calibration_ids(tiny))
    assert len(learned) == 8 * 256
    for rows, tokens in ((5, 1280), (3, 1028), (5, 576)):
        assert not learned & set(quality_texts.windows(tiny, rows, tokens).flatten().tolist())


def test_an_eviction_frees_streams() -> None:
    """What stays is decoded and coded again, and the store is as small as the streams then are."""
    from kvlab import SinkRecent

    lm, text = model(), ids(1, 30)
    codec = Chain(Quantize(8, "token", None), Huffman(8, tokens=4))
    cache = Cache(lm, codec=codec, eviction=SinkRecent(sinks=2, recent=10))
    lm(text[:, :24], cache)
    for i in range(24, 30):
        lm(text[:, i : i + 1], cache)
    assert cache.tokens_stored.tolist() == [12]
    stream = cache.layers[0].keys
    assert stream.slots == 12 and stream.packed()["code.stream0"].shape == (1, 2, 3)
