"""Magnitude pruning, CSR and dictionary codes: what comes back, in how many bytes, and through a cache."""

from __future__ import annotations

import math

import pytest
import torch
from codec_paths import WIDE, normal, same_walk, size
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ids, model

from kvlab import CSR, Cache, CacheError, Chain, Lexico, Mustafar, Quantize
from kvlab.codecs import Atoms
from kvlab.codecs.dictionary import learn, pursue
from kvlab.codecs.sparse import pack_bits, unpack_bits

FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def rounding(x: torch.Tensor) -> torch.Tensor:
    return (2**-11 * x.abs()).clamp(min=2**-25) * 1.0001


@st.composite
def vectors(draw) -> torch.Tensor:
    """Tensors with zeros, equal numbers and very different sizes in them."""
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5)))
    dim = draw(st.sampled_from([8, 16, 64]))
    x = normal(*shape, dim, seed=draw(st.integers(0, 999))) * 2.0 ** draw(st.integers(-20, 12))
    kind = draw(st.sampled_from(["plain", "zeros", "constant", "steps"]))
    if kind == "zeros":
        x[..., ::3] = 0
    if kind == "constant":
        x[:] = x.flatten()[0]
    return x.round() if kind == "steps" else x


@FEW
@given(x=vectors(), keep=st.sampled_from([0.1, 0.3, 0.5, 1.0]), kind=st.sampled_from([Mustafar, CSR]))
def test_the_largest_come_back_and_the_others_are_zero(x: torch.Tensor, keep: float, kind) -> None:
    codec = kind(keep)
    back = codec.decode(codec.encode(x), torch.float32)
    k = codec.kept(x.shape[-1])
    least = x.abs().topk(k, -1).values[..., -1:]  # the smallest that stays
    stays = back != 0
    assert ((back - x).abs() <= torch.where(stays, rounding(x), least.clamp(min=2**-25))).all()
    assert (stays.sum(-1) <= k).all()
    clear = x.abs() > least  # no tie can have taken their place
    assert ((back - x).abs() <= rounding(x))[clear].all()


@FEW
@given(n=st.integers(1, 20), seed=st.integers(0, 99))
def test_bits_come_back(n: int, seed: int) -> None:
    mask = (normal(3, 8 * n, seed=seed) > 0).to(torch.uint8)
    packed = pack_bits(mask)
    assert packed.shape == (3, n) and torch.equal(unpack_bits(packed), mask)


def test_bitmap_by_hand() -> None:
    x = torch.tensor([0.1, -4, 0, 0, 0, 3, 0, 0.2]).view(1, 1, 1, 8)
    packed = Mustafar(0.25).encode(x)
    assert packed["bitmap"].item() == 0b00100010 and packed["value"].tolist() == [[[[-4, 3]]]]
    packed = CSR(0.25).encode(x)
    assert packed["column"].tolist() == [[[[1, 5]]]]


def test_bytes_by_hand() -> None:
    x = normal(2, 3, 5, 64)
    assert {n: (p.dtype, tuple(p.shape)) for n, p in Mustafar(0.5).encode(x).items()} == {
        "value": (torch.float16, (2, 3, 5, 32)),
        "bitmap": (torch.uint8, (2, 3, 5, 8)),
    }
    vectors = 2 * 3 * 5
    assert size(Mustafar(0.5).encode(x)) == vectors * (64 + 8)
    assert size(CSR(0.5).encode(x)) == vectors * 3 * 32
    assert size(CSR(0.5).encode(x), "like") == 0
    four = Chain(Mustafar(0.5), Quantize(4, "token", None))
    assert size(four.encode(x)) == vectors * (8 + 16 + 4)
    atoms = Atoms(normal(100, 64), sparsity=5)
    parts = {n: (p.dtype, tuple(p.shape)) for n, p in atoms.encode(x).items()}
    assert parts["atom"] == (torch.int16, (2, 3, 5, 5)) and parts["code"] == (torch.uint8, (2, 3, 5, 5))
    assert size(atoms.encode(x)) == vectors * (3 * 5 + 2)
    assert sum(t.numel() * t.element_size() for t in atoms.shared_tensors()) == 100 * 64 * 2


def test_below_one_in_eight_csr_is_smaller_than_a_bitmap() -> None:
    x = normal(1, 1, 1, 64)
    kept = (4, 8, 16, 44, 60, 61)
    sizes = {k: (size(Mustafar(k / 64).encode(x)), size(CSR(k / 64).encode(x))) for k in kept}
    assert sizes == {4: (16, 12), 8: (24, 24), 16: (40, 48), 44: (96, 132), 60: (128, 180), 61: (130, 183)}


@pytest.mark.parametrize(
    "codec",
    [Mustafar(0.5), CSR(0.3), Mustafar(0.5, residual=3, sink=2), CSR(0.5, plain_keys=True),
     Chain(Mustafar(0.5), Quantize(4, "token", None)), Chain(CSR(0.5, sink=2), Quantize(8, "token", None)),
     Atoms(normal(20, 8), 3), Atoms(normal(20, 8), 2, residual=4, sink=1)],
    ids=lambda codec: type(codec).__name__,
)  # fmt: skip
def test_through_the_cache(codec) -> None:
    same_walk(codec)


@pytest.mark.parametrize("codec", [Mustafar(0.5), CSR(0.5), Atoms(normal(20, 8), 3)], ids=type)
def test_a_static_store_holds_codecs_of_single_tokens(codec) -> None:
    lm, text = model(config=WIDE), ids(1, 20)
    static, dynamic = Cache(lm, store="static", capacity=24, codec=codec), Cache(lm, codec=codec)
    for cut in (slice(0, 9), slice(9, 10), slice(10, 20)):
        assert (lm(text[:, cut], static) - lm(text[:, cut], dynamic)).abs().max() < 1e-10
    assert static.nbytes == dynamic.nbytes
    with pytest.raises(CacheError, match="static store"):
        Cache(lm, store="static", capacity=24, codec=Mustafar(0.5, residual=4))


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, math.nan])
def test_a_share_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep is the share"):
        Mustafar(keep)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
@pytest.mark.parametrize("codec", [Mustafar(0.5), CSR(0.5), Atoms(torch.eye(8), 2)], ids=type)
def test_numbers_that_do_not_fit_are_refused(codec, bad: float) -> None:
    x = normal(1, 1, 2, 8)
    x[0, 0, 1, 3] = bad
    with pytest.raises(ValueError, match="NaN, infinite or huge"):
        codec.encode(x)


def test_heads_that_do_not_fit_are_refused() -> None:
    lm = model()  # head_dim 4
    with pytest.raises(ValueError, match="bitmap"):
        Cache(lm, codec=Mustafar(0.5))
    with pytest.raises(ValueError, match="learn others"):
        Cache(lm, codec=Atoms(torch.eye(8), 2))
    with pytest.raises(ValueError, match="sparsity"):
        Atoms(torch.eye(8), 9)
    with pytest.raises(ValueError, match="32,768 atoms"):
        Atoms(torch.ones(8), 1)


# --- dictionaries ---


@FEW
@given(x=vectors(), sparsity=st.integers(1, 6), seed=st.integers(0, 99))
def test_atoms_are_within_their_bound(x: torch.Tensor, sparsity: int, seed: int) -> None:
    x = x * (1e4 / x.abs().max().clamp(min=1e4))
    codec = Atoms(normal(30, x.shape[-1], seed=seed), sparsity)
    packed = codec.encode(x)
    code = packed["code"].view(torch.float8_e4m3fn).float() * packed["scale"].float()
    error = (codec.decode(packed, torch.float32) - x).norm(dim=-1)
    bound = x.norm(dim=-1) + 2**-4 * code.abs().sum(-1) + 2**-10 * code.abs().amax(-1) * sparsity
    assert (error <= 1.001 * bound + 1e-6).all()


def test_a_sum_of_few_atoms_is_found_again() -> None:
    atoms = torch.linalg.qr(normal(16, 16))[0]  # orthogonal: then the greedy choice is right
    x = 3 * atoms[[4]] - 2 * atoms[[9]] + 0.5 * atoms[[1]]
    chosen, code = pursue(x, atoms, 3)
    assert chosen.tolist() == [[4, 9, 1]] and torch.allclose(code, torch.tensor([[3, -2, 0.5]]), atol=1e-4)


def test_what_is_left_is_orthogonal_to_every_atom_taken() -> None:
    x, atoms = normal(50, 16), torch.nn.functional.normalize(normal(40, 16, seed=1), dim=-1)
    chosen, code = pursue(x, atoms, 5)
    rest = x - (code.unsqueeze(1) @ atoms[chosen]).squeeze(1)
    assert (rest.unsqueeze(1) @ atoms[chosen].transpose(1, 2)).abs().max() < 1e-4
    assert all(len(set(row)) == 5 for row in chosen.tolist())


def test_learning_beats_drawing_and_is_the_same_every_time() -> None:
    true = torch.nn.functional.normalize(normal(24, 16), dim=-1)
    where = torch.randint(0, 24, (700, 2), generator=torch.Generator().manual_seed(3))
    x = (normal(700, 2, 1, seed=4) * true[where]).sum(1)
    train, test = x[:500], x[500:]

    def error(atoms: torch.Tensor) -> float:
        chosen, code = pursue(test, atoms, 2)
        return float((test - (code.unsqueeze(1) @ atoms[chosen]).squeeze(1)).norm() / test.norm())

    drawn, learned = learn(train, 24, 2, rounds=0), learn(train, 24, 2, rounds=8)
    assert error(learned) < 0.75 * error(drawn)
    assert torch.equal(learned, learn(train, 24, 2, rounds=8))
    with pytest.raises(ValueError, match="cannot make"):
        learn(train[:10], 24, 2, 1)


def test_lexico_learns_for_each_layer_and_stream() -> None:
    lm = model(config=WIDE)
    lexico = Lexico.fit(lm, ids(1, 40)[0].tolist(), sparsity=3, atoms=20, rounds=1, sink=2)
    same_walk(lexico)
    cache = Cache(lm, codec=lexico)
    lm(ids(1, 12), cache)
    shared = 6 * 20 * 8 * 2
    assert cache.nbytes == shared + 6 * 2 * (2 * 8 * 8 + 10 * (3 * 3 + 2))


@pytest.mark.weights
def test_real_keys_and_values_are_dense_and_pruning_is_as_stated(smollm2) -> None:
    from kvlab.codecs.calibrate import entries
    from kvlab.measure.calibration import calibration_ids

    pairs = entries(smollm2, calibration_ids(smollm2, 2, 150), plain=False)
    assert sum(int((x == 0).sum()) for pair in pairs for x in pair) == 0
    errors = []
    for stream in (0, 1):
        x = torch.stack([pair[stream] for pair in pairs])[:, :, 4:].flatten(0, 1).unsqueeze(0)
        back = Mustafar(0.5).decode(Mustafar(0.5).encode(x), torch.float32)
        errors.append(float((back - x).norm() / x.norm()))
    assert 0.1 < errors[0] < 0.35 and 0.2 < errors[1] < 0.35
