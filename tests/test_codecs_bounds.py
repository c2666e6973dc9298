"""What comes back from each lossy codec: within its stated bound, in the stated bytes, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small import ids, model
from torch import Tensor

from kvlab import (
    KIVI,
    BFloat16,
    Cache,
    CacheError,
    Chain,
    Float16,
    Fp8,
    Hadamard,
    Int8,
    PerLayer,
    Quantize,
    TurboQuant,
)
from kvlab.codecs import Codec
from kvlab.codecs.hadamard import rotation
from kvlab.codecs.lloyd_max import lloyd_max
from kvlab.codecs.packing import BITS, multiple, pack, unpack

HALF = 2**-11  # relative rounding of float16
FLOAT32 = 2e-6  # slack for the arithmetic itself, relative to the largest number


@dataclass
class Case:
    """A codec, what it costs, and how far off it may be: bound(x) is `[...]` as x, or `[..., 1]` (norms)."""

    codec: Codec
    bits: float  # per number, at head_dim 64
    bound: Callable[[Tensor], Tensor]
    norms: bool = False  # the bound is on the length of each vector's error
    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] | None = None  # for x [2, 3, 64, 64]


def spread(x: Tensor, over: tuple[int, ...], bits: int, symmetric: bool) -> Tensor:
    """The bound of one group of `Quantize`, from its docstring."""
    low, high, most = x.amin(over, True), x.amax(over, True), x.abs().amax(over, True)
    if symmetric:
        return most / (2 * (2 ** (bits - 1) - 1)) + HALF * most + 2**-17
    return (high - low) / (2 * (2**bits - 1)) + HALF * (low.abs() + high - low) + 2**-17


def quantize(bits: int, axis: str, group: int | None = 32, symmetric: bool = False) -> Case:
    def bound(x: Tensor) -> Tensor:
        if axis == "token":
            groups = x.unflatten(-1, (-1, group or x.shape[-1]))
            return spread(groups, (-1,), bits, symmetric).expand_as(groups).flatten(-2)
        groups = x.unflatten(2, (-1, group))
        over = (-2,) if axis == "channel" else (-2, -1)
        return spread(groups, over, bits, symmetric).expand_as(groups).flatten(2, 3)

    share = {"token": group or 64, "channel": group, "tensor": (group or 1) * 64}[axis]
    codec = Quantize(bits, axis, group, symmetric=symmetric)
    return Case(codec, bits + (16 if symmetric else 32) / share, bound)


def turbo(bits: int) -> Case:
    levels = lloyd_max(bits)
    half = max(b - a for a, b in pairwise(levels)) / 2

    def bound(x: Tensor) -> Tensor:
        length = x.norm(dim=-1, keepdim=True)
        return math.sqrt(1 + half**2) * length * (1 + 2 * HALF) + 2**-24

    return Case(TurboQuant(bits), bits + 16 / 64, bound, norms=True)


def rotated(case: Case) -> Case:
    def bound(x: Tensor) -> Tensor:
        y = x @ rotation(x.shape[-1], 0, x.device).to(x.dtype)
        return case.bound(y).expand_as(y).norm(dim=-1, keepdim=True)

    return Case(Hadamard(case.codec), case.bits, bound, norms=True)


def fp8(x: Tensor) -> Tensor:
    most = x.abs().amax(-1, keepdim=True)
    scale = torch.where(most < 448 * 2**-14, 2**-25 * 448, 0.0)
    return 2**-4 * x.abs() + 2**-10 / 448 * most + HALF * most + scale


def int8(x: Tensor) -> Tensor:
    most = x.abs().amax(-1, keepdim=True)
    return (most / 254 + HALF * most + 128 * 2**-25).expand_as(x)


CASES: dict[str, Case] = {
    "Float16": Case(Float16(), 16, lambda x: HALF * x.abs() + 2**-25),
    "BFloat16": Case(BFloat16(), 16, lambda x: 2**-8 * x.abs() + 2**-134),
    "Fp8": Case(Fp8(), 8 + 16 / 64, fp8),
    "Int8": Case(Int8(), 8 + 16 / 64, int8),
    **{
        f"Quantize {bits} {axis} {group}{' symmetric' * symmetric}": quantize(bits, axis, group, symmetric)
        for bits in (8, 4, 3, 2)
        for axis, group in (("token", 32), ("token", None), ("channel", 32), ("tensor", 16))
        for symmetric in (False, True)
    },
    "Hadamard": rotated(quantize(4, "token")),
    "Hadamard, channel": rotated(quantize(3, "channel")),
    **{f"TurboQuant {bits}": turbo(bits) for bits in (1, 2, 3, 4)},
    "Chain": Case(Chain(Float16(), Quantize(4)), 5, lambda x: quantize(4, "token").bound(x) + HALF * x.abs()),
}  # fmt: skip


def check(case: Case, x: Tensor) -> None:
    back = case.codec.decode(case.codec.encode(x), torch.float64)
    assert back.shape == x.shape
    exact = x.double()
    error = (back - exact).abs()
    if case.norms:
        error = error.norm(dim=-1, keepdim=True)
    slack = FLOAT32 * exact.abs().amax() * (8 if case.norms else 1)
    worst = (error - case.bound(exact) - slack).max().item()
    assert worst <= 0, f"off by {worst} more than the stated bound"


@st.composite
def entries(draw) -> Tensor:
    """Two vectors of numbers in a range drawn for each channel and token: constant, tiny, huge, mixed."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 2, 32, 64, generator=generator) * 2 - 1
    x = x + draw(st.sampled_from([0.0, 0.0, 3.0, -100.0]))
    exponents = draw(st.sampled_from([0, 4, 10]))  # how much channels and tokens differ in size
    channel = torch.randint(-exponents, 1, (1, 2, 1, 64), generator=generator)
    token = torch.randint(-exponents, 1, (1, 2, 32, 1), generator=generator)
    x = x * 2.0 ** (draw(st.integers(-30, 5)) + draw(st.sampled_from([0, 1])) * channel + token)
    kind = draw(st.sampled_from(["as drawn", "constant", "zeros", "an outlier", "one constant channel"]))
    if kind == "constant":
        x = torch.full_like(x, float(x[0, 0, 0, 0]))
    elif kind == "zeros":
        x = x * (torch.rand(x.shape, generator=generator) < 0.05)
    elif kind == "an outlier":
        x[0, 1, 5, 7] = draw(st.sampled_from([-4e4, 4e4, 1e3]))
    elif kind == "one constant channel":
        x[..., 3] = 41.7
    return x


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(x=entries())
@example(x=torch.zeros(1, 2, 32, 64))
@example(x=torch.full((1, 2, 32, 64), 3.3))
@example(x=torch.full((1, 2, 32, 64), -1e-9))
def test_the_stated_bound_holds(name: str, x: Tensor) -> None:
    check(CASES[name], x)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_takes_and_gives_any_dtype(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 32, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    check(CASES[name], x)
    assert CASES[name].codec.decode(CASES[name].codec.encode(x), dtype).dtype == dtype


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39], ids=str)
def test_what_it_cannot_hold_is_refused(name: str, bad: float) -> None:
    x = torch.randn(1, 2, 32, 64, generator=torch.Generator().manual_seed(1)).double()
    x[0, 1, 17, 5] = bad
    with pytest.raises(ValueError, match="cannot encode NaN, infinite or huge"):
        CASES[name].codec.encode(x)


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("BFloat16", "Fp8", "Int8")])
def test_huge_numbers_are_refused_where_float16_ends(name: str) -> None:
    x = torch.zeros(1, 2, 32, 64)
    x[0, 1] = 1e8
    with pytest.raises(ValueError, match="huge"):
        CASES[name].codec.encode(x)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_of_the_formula_and_no_float_is_hidden(name: str) -> None:
    case, x = CASES[name], torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    packed = case.codec.encode(x)
    assert sum(t.untyped_storage().nbytes() for t in packed.values()) * 8 == case.bits * x.numel()
    assert all(t.shape[:2] == (2, 3) and t.shape[2] == 64 // case.codec.block for t in packed.values())
    codes = {n: t.dtype for n, t in packed.items() if n.endswith("code")}
    assert set(codes.values()) <= {torch.uint8, torch.int8} and (codes or case.bits == 16)


def test_packed_tensors_of_keys_and_values() -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def parts(codec: Codec) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {name: (t.dtype, tuple(t.shape)) for name, t in codec.encode(x).items()}

    half = torch.float16
    assert parts(KIVI(2).at(0, "keys")) == {  # 32 tokens of a channel share a scale
        "code": (torch.uint8, (2, 3, 2, 32, 16)),
        "scale": (half, (2, 3, 2, 1, 64)),
        "minimum": (half, (2, 3, 2, 1, 64)),
    }
    assert parts(KIVI(3).at(0, "values")) == {  # 32 channels of a token do
        "code": (torch.uint8, (2, 3, 64, 24)),
        "scale": (half, (2, 3, 64, 2, 1)),
        "minimum": (half, (2, 3, 64, 2, 1)),
    }
    assert parts(Quantize(8, "tensor", 64, symmetric=True)) == {
        "code": (torch.uint8, (2, 3, 1, 64, 64)),
        "scale": (half, (2, 3, 1, 1, 1)),
    }
    assert parts(TurboQuant(2)) == {
        "code": (torch.uint8, (2, 3, 64, 16)),
        "length": (half, (2, 3, 64, 1)),
    }


class TestPacking:
    @pytest.mark.parametrize("bits", BITS)
    def test_every_code_at_every_place_comes_back(self, bits: int) -> None:
        n = multiple(bits) * 4
        codes = (torch.arange(n).view(1, -1) * 7 + torch.arange(2**bits).view(-1, 1)) % 2**bits
        packed = pack(codes.to(torch.uint8), bits)
        assert packed.dtype == torch.uint8 and packed.shape == (2**bits, n * bits // 8)
        assert torch.equal(unpack(packed, bits), codes.to(torch.uint8))

    def test_three_bits_lie_across_bytes(self) -> None:
        codes = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0], dtype=torch.uint8)
        whole = sum(int(code) << 3 * i for i, code in enumerate(codes))
        assert pack(codes, 3).tolist() == [whole >> 8 * i & 255 for i in range(3)]

    def test_four_bits_hold_two_codes_half_a_vector_apart(self) -> None:
        codes = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)
        assert pack(codes, 4).tolist() == [1 + 16 * 3, 2 + 16 * 4]


class TestCodebook:
    def test_of_two_bits_is_the_published_one(self) -> None:
        assert [round(x, 4) for x in lloyd_max(2)] == [-1.5104, -0.4528, 0.4528, 1.5104]  # Max, 1960

    @pytest.mark.parametrize("bits", [1, 2, 3, 4])
    def test_meets_both_conditions_on_drawn_numbers(self, bits: int) -> None:
        levels = torch.tensor(lloyd_max(bits), dtype=torch.float64)
        x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        near = (x.unsqueeze(-1) - levels).abs().argmin(-1)
        means = torch.stack([x[near == i].mean() for i in range(len(levels))])
        assert (means - levels).abs().max() < 0.01  # a level is the mean of what is nearest to it
        stated = {1: 0.3634, 2: 0.1175, 3: 0.0345, 4: 0.0095}[bits]
        assert abs((x - levels[near]).square().mean().item() / stated - 1) < 0.01

    @pytest.mark.parametrize("bits", [2, 3, 4])
    def test_vectors_with_outliers_are_off_as_stated_on_average(self, bits: int) -> None:
        x = torch.randn(1, 1, 4000, 64, generator=torch.Generator().manual_seed(0))
        x[..., 3] *= 10
        codec = TurboQuant(bits)
        error = (codec.decode(codec.encode(x), x.dtype) - x).norm(dim=-1) / x.norm(dim=-1)
        stated = {2: 0.1175, 3: 0.0345, 4: 0.0095}[bits]
        assert abs(error.square().mean().item() / stated - 1) < 0.25


class TestRotation:
    @pytest.mark.parametrize("dim", [4, 64, 256])
    def test_is_orthonormal_and_the_same_each_time(self, dim: int) -> None:
        r = rotation(dim, 0, torch.device("cpu"))
        assert (r @ r.T - torch.eye(dim)).abs().max() < 1e-6
        assert torch.equal(r.abs(), torch.full_like(r, dim**-0.5))
        assert not torch.equal(r, rotation(dim, 1, torch.device("cpu")))

    def test_spreads_an_outlier_over_all_channels(self) -> None:
        x = torch.zeros(64)
        x[9] = 8.0
        assert torch.equal((x @ rotation(64, 0, torch.device("cpu"))).abs(), torch.ones(64))


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "bits": (lambda: Quantize(bits=5), "8, 4, 3 or 2 bits, not 5"),
    "KIVI's bits": (lambda: KIVI(bits=16), "8, 4, 3 or 2 bits, not 16"),
    "axis": (lambda: Quantize(axis="row"), 'axis is "token"'),  # type: ignore[arg-type]
    "no group of tokens": (lambda: Quantize(axis="channel", group_size=None), "encodes group_size tokens"),
    "group 0": (lambda: Quantize(group_size=0), "at least 1, not 0"),
    "residual": (lambda: Quantize(residual=-1), "residual in tokens: give an integer from 0 up, not -1"),
    "sink": (lambda: KIVI(sink=1.5), "sink in tokens"),  # type: ignore[arg-type]
    "codebook": (lambda: TurboQuant(5), "1 to 4 bits, not 5"),
    "nothing to chain": (lambda: Chain(Int8(), Fp8()), "put it last"),
    "layer": (lambda: PerLayer({-1: Int8()}), "layer numbers from 0 up, not -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_parameters_out_of_range_are_refused_at_once(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


UNFIT: dict[str, tuple[Codec, str]] = {  # head_dim is 4
    "group": (Quantize(group_size=3), "group_size=3 does not divide head_dim 4 of small"),
    "KIVI's group": (KIVI(group_size=32), "group_size=32 does not divide head_dim 4"),
    "3 bits": (Quantize(3, group_size=4), "8 codes of 3 bits fill whole bytes"),
    "TurboQuant": (TurboQuant(3), "8 codes of 3 bits"),
    "behind a rotation": (Hadamard(Quantize(3, group_size=4)), "8 codes of 3 bits"),
    "in one layer": (PerLayer({1: Quantize()}), "group_size=32 does not divide"),
    "a layer too many": (PerLayer({3: Int8()}), "small has layers 0 to 2; PerLayer names 3"),
    "first of a chain": (Chain(Quantize(3), Fp8()), "does not divide"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_a_model_is_refused_with_the_cache(name: str) -> None:
    codec, message = UNFIT[name]
    with pytest.raises(CacheError, match=message):
        Cache(model(), codec=(None, codec))


def test_a_head_that_is_no_power_of_two_is_not_rotated() -> None:
    with pytest.raises(ValueError, match="power of two as head_dim, not 80"):
        Hadamard(Int8()).encode(torch.zeros(1, 1, 1, 80))


def test_choices_are_not_asked_to_encode() -> None:
    with pytest.raises(TypeError, match="ask its at"):
        KIVI().encode(torch.zeros(1, 1, 32, 64))


def test_each_layer_and_stream_has_its_own_codec() -> None:
    lm, text = model(), ids(1, 40)
    codec = PerLayer({0: Int8(), 2: None}, default=KIVI(4, group_size=4, residual=0))
    cache = Cache(lm, codec=codec)
    lm(text, cache)
    numbers = 40 * 2 * 4  # tokens, KV heads, head_dim, of one stream
    int8_bytes = 2 * numbers * (8 + 16 / 4) / 8
    kivi_bytes = 2 * numbers * (4 + 32 / 4) / 8
    assert cache.nbytes == int8_bytes + kivi_bytes + 2 * numbers * 8  # float64 in the layer left out


def test_what_all_entries_share_is_counted_once() -> None:
    lm = model()
    for codec, shared in ((Hadamard(Quantize(4, group_size=4)), 64), (TurboQuant(4), 64 + 64)):
        cache = Cache(lm, codec=codec)
        lm(ids(1, 10), cache)
        layers = sum(layer.stored_bytes(10) for layer in cache.layers)
        assert cache.nbytes == layers + shared  # a 4 x 4 matrix, and 16 levels, in float32
