"""Low rank: bases from other text and of the text's own, their bytes, and their way through a cache."""

from __future__ import annotations

import math

import pytest
import torch
from codec_paths import WIDE, normal, same_walk, size
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ids, model

from kvlab import Cache, CacheError, Chain, Huffman, LowRank, OwnBasis, Quantize
from kvlab.codecs import Subspace, simhash
from kvlab.codecs.calibrate import entries
from kvlab.codecs.low_rank import principal, rank_for

FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)
TEXT = ids(1, 60)[0].tolist()


def orthonormal(heads: int, dim: int, rank: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(heads, dim, dim, seed=seed))[0][..., :rank]


# --- the mathematics ---


def test_principal_directions_are_those_of_the_svd() -> None:
    x = normal(3, 50, 6) * torch.tensor([5, 4, 3, 2, 1, 0.5]) + 7
    mean, basis, shares = principal(x)
    centred = x - x.mean(1, keepdim=True)
    s = torch.linalg.svdvals(centred)
    assert torch.allclose(mean, x.mean(1))
    assert torch.allclose(shares, s**2 / (s**2).sum(-1, keepdim=True), atol=1e-5)
    assert torch.allclose(basis.transpose(1, 2) @ basis, torch.eye(6).expand(3, -1, -1), atol=1e-5)
    same, _, none = principal(torch.ones(1, 5, 4))
    assert torch.equal(same, torch.ones(1, 4)) and float(none.abs().max()) == 0


def test_the_mean_is_no_energy() -> None:
    """Uncentred, one large constant looks like a rank of one that explains all."""
    x = normal(1, 400, 8) + 100
    assert rank_for(principal(x)[2], 0.9) >= 7
    uncentred = torch.linalg.svdvals(x) ** 2
    assert float(uncentred[0, 0] / uncentred.sum()) > 0.99


def test_rank_by_energy_by_hand() -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2, 0], [0.9, 0.1, 0, 0]])
    assert [rank_for(shares, e) for e in (0.5, 0.8, 0.81, 1.0)] == [1, 2, 3, 3]


@FEW
@given(rank=st.integers(1, 8), exponent=st.integers(-6, 8), seed=st.integers(0, 99))
def test_a_subspace_keeps_what_lies_in_it(rank: int, exponent: int, seed: int) -> None:
    basis, mean = orthonormal(2, 8, rank, seed), normal(2, 8, seed=seed + 1)
    codec = Subspace(basis, mean)
    x = normal(3, 2, 5, 8, seed=seed + 2) * 2.0**exponent
    back = codec.decode(codec.encode(x), torch.float32)
    centred = x - mean.unsqueeze(1)
    outside = centred - centred @ basis @ basis.transpose(1, 2)
    rounding = 2**-8 * centred.norm(dim=-1) + 2**-9 * mean.norm(dim=-1).unsqueeze(-1) + 1e-4
    assert ((back - x).norm(dim=-1) <= outside.norm(dim=-1) + rounding).all()


@FEW
@given(rank=st.integers(1, 8), offset=st.sampled_from([0.0, 30.0]), seed=st.integers(0, 99))
def test_no_basis_is_better_for_a_block_than_its_own(rank: int, offset: float, seed: int) -> None:
    x = normal(2, 2, 24, 8, seed=seed) * torch.arange(1, 9) + offset
    codec = OwnBasis(rank, tokens=12)
    back = codec.decode(codec.encode(x), torch.float32)
    blocks = x.unflatten(2, (2, 12))
    left = torch.linalg.svdvals(blocks - blocks.mean(3, keepdim=True))[..., rank:].norm(dim=-1)
    error = (back - x).unflatten(2, (2, 12)).flatten(3).norm(dim=-1)
    assert (error <= left + 2**-9 * blocks.flatten(3).norm(dim=-1)).all()
    other = Subspace(orthonormal(2, 8, rank, seed), x.mean((0, 2)))
    theirs = (other.decode(other.encode(x), torch.float32) - x).norm()
    assert (back - x).norm() <= theirs + 2**-9 * x.norm()


# --- bytes ---


def test_bytes_by_hand() -> None:
    x = normal(2, 3, 16, 8)
    codec = Subspace(orthonormal(3, 8, 5), torch.zeros(3, 8))
    packed = codec.encode(x)
    assert packed["code"].dtype == torch.float16 and size(packed) == 2 * 3 * 16 * 5 * 2
    assert sum(t.numel() * t.element_size() for t in codec.shared_tensors()) == 2 * 3 * 8 * (5 + 1)
    packed = OwnBasis(3, tokens=8).encode(x)
    assert {n: (p.dtype, tuple(p.shape)) for n, p in packed.items()} == {
        "code": (torch.float16, (2, 3, 2, 8, 3)),
        "basis": (torch.float16, (2, 3, 2, 8, 3)),
        "mean": (torch.float16, (2, 3, 2, 8)),
    }
    assert size(packed) == 2 * 3 * 2 * 2 * (8 * 3 + 8 * (3 + 1))
    four = Chain(Subspace(orthonormal(3, 8, 4), torch.zeros(3, 8)), Quantize(4, "token", None))
    assert size(four.encode(x)) == 2 * 3 * 16 * (2 + 4)


def test_a_cache_counts_bases_once() -> None:
    lm = model(config=WIDE)
    low = LowRank.fit(lm, TEXT, rank=3, sink=2)
    shared = 6 * 2 * (2 * 8 * 3 + 2 * 8)
    for batch in (1, 3):
        cache = Cache(lm, codec=low)
        lm(ids(batch, 12), cache)
        sealed = 6 * batch * 2 * 10 * 3 * 2
        assert cache.nbytes == shared + sealed + 6 * batch * 2 * 2 * 8 * 8
        assert cache.allocated_bytes >= cache.nbytes


def test_more_energy_takes_more_rank() -> None:
    lm = model(config=WIDE)
    ranks = [[s.rank for s in LowRank.fit(lm, TEXT, energy=e).codecs.values()] for e in (0.3, 0.7, 1.0)]
    assert all(a <= b <= c for a, b, c in zip(*ranks, strict=True)) and sum(ranks[0]) < sum(ranks[2])
    assert max(ranks[2]) <= 8


# --- through the cache ---


def test_through_the_cache() -> None:
    lm = model(config=WIDE)
    same_walk(LowRank.fit(lm, TEXT, rank=3, sink=2, residual=3))
    same_walk(LowRank.fit(lm, TEXT, rank=3, sink=0, rotated=True, streams=["keys"]))
    same_walk(OwnBasis(2, tokens=5, sink=1))


def test_chains_through_the_cache() -> None:
    low = LowRank.fit(model(config=WIDE), TEXT, rank=4, sink=1)
    same_walk(Chain(low, Quantize(4, "token", None)))
    same_walk(Chain(low, Chain(Quantize(4, "token", None), Huffman(4, tokens=3))))
    same_walk(Chain(OwnBasis(2, tokens=6, sink=0), Quantize(8, "token", None)))


def test_full_rank_loses_rounding_only_and_positions_are_right() -> None:
    """Keys before rotation, turned when they are read: with all directions kept nothing else may change."""
    lm, text = model(config=WIDE), ids(2, 30)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :7] = False
    for low in (LowRank.fit(lm, TEXT, rank=8), LowRank.fit(lm, TEXT, rank=8, rotated=True)):
        exact, cache = Cache(lm), Cache(lm, codec=low)
        for one in (exact, cache):
            lm(text[:, :20], one, mask=mask)
        errors = [
            (lm(text[:, i : i + 1], exact) - lm(text[:, i : i + 1], cache)).abs().max() for i in range(20, 30)
        ]
        assert max(errors) < 0.05


def test_a_static_store_holds_it_without_sinks() -> None:
    lm, text = model(config=WIDE), ids(1, 20)
    low = LowRank.fit(lm, TEXT, rank=4, sink=0)
    static, dynamic = Cache(lm, store="static", capacity=24, codec=low), Cache(lm, codec=low)
    for cut in (slice(0, 9), slice(9, 10), slice(10, 20)):
        assert (lm(text[:, cut], static) - lm(text[:, cut], dynamic)).abs().max() < 1e-6
    with pytest.raises(CacheError, match="static store"):
        Cache(lm, store="static", capacity=24, codec=LowRank.fit(lm, TEXT, rank=4, sink=4))
    with pytest.raises(CacheError, match="static store"):
        Cache(lm, store="static", capacity=24, codec=OwnBasis(2, tokens=8))


# --- refusals ---


def test_what_cannot_be_is_refused_clearly() -> None:
    lm = model(config=WIDE)
    for how, message in (
        ({"rank": 9}, "rank is 1 to head_dim, 8"), ({"rank": 0}, "rank is 1 to head_dim"),
        ({"energy": 1.5}, "share of the squares"), ({}, "give one of them"),
        ({"rank": 2, "energy": 0.5}, "give one of them"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            LowRank.fit(lm, TEXT, **how)
    with pytest.raises(ValueError, match="give more text"):
        LowRank.fit(lm, TEXT[:6], rank=4)
    with pytest.raises(ValueError, match="some text"):
        LowRank.fit(lm, [], rank=4)
    with pytest.raises(ValueError, match="fit one on this model"):
        Cache(model(), codec=LowRank.fit(lm, TEXT, rank=4))
    with pytest.raises(ValueError, match="rank is 1 to head_dim, 4"):
        Cache(model(), codec=OwnBasis(5, tokens=8))
    with pytest.raises(ValueError, match="larger blocks"):
        OwnBasis(8, tokens=8)
    with pytest.raises(ValueError, match="a basis"):
        Subspace(torch.eye(8), torch.zeros(8))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
def test_numbers_that_do_not_fit_are_refused(bad: float) -> None:
    x = normal(1, 2, 4, 8)
    x[0, 1, 3, 3] = bad
    for codec in (Subspace(orthonormal(2, 8, 3), torch.zeros(2, 8)), OwnBasis(2, tokens=4)):
        with pytest.raises(ValueError, match="NaN, infinite or huge"):
            codec.encode(x)


# --- what is looked at ---


def test_entries_are_before_or_after_rotation() -> None:
    lm = model(config=WIDE)
    plain, turned = entries(lm, TEXT[:9]), entries(lm, TEXT[:9], plain=False)
    for (k, v), (k2, v2) in zip(plain, turned, strict=True):
        assert k.shape == (2, 9, 8) and torch.allclose(v, v2)
        assert torch.allclose(k[:, 0], k2[:, 0]) and not torch.allclose(k[:, 1:], k2[:, 1:])
        assert torch.allclose(k.norm(dim=-1), k2.norm(dim=-1))


def test_signatures_agree_as_often_as_the_angle_says() -> None:
    a, b = torch.eye(2)[0], torch.tensor([1.0, 1.0])  # 45 degrees: 3 of 4 bits
    x = torch.stack((a, b))
    found = [simhash.signatures(x, bits=50, seed=s) for s in range(40)]
    same = sum(50 - bin(int(p[0]) ^ int(p[1])).count("1") for p in found) / 2000
    assert abs(same - 0.75) < 0.03
    assert simhash.signatures(3 * x, 20).equal(simhash.signatures(x, 20))
    with pytest.raises(ValueError, match="1 to 62 bits"):
        simhash.signatures(x, 63)


def test_buckets_and_near_duplicates_by_hand() -> None:
    signature = torch.tensor([[1, 1, 1, 2], [5, 6, 7, 7]])
    assert simhash.buckets(signature) == 5 / 8 and simhash.largest_bucket(signature) == 5 / 8
    x = torch.tensor([[1.0, 0], [2, 0.1], [0, 1], [-1, 0]])
    assert simhash.near_duplicates(x) == 0.5


@pytest.mark.weights
def test_real_keys_lie_in_few_directions_before_rotation(smollm2) -> None:
    from kvlab.measure.calibration import calibration_ids

    text = calibration_ids(smollm2, 2, 300)
    before = entries(smollm2, text)
    after = entries(smollm2, text, plain=False)

    def held_out(pairs: list, stream: int, r: int) -> float:
        """Share of the squares of the second half in a basis of the first."""
        shares = []
        for pair in pairs:
            first, second = pair[stream][:, 4:302], pair[stream][:, 302:]
            mean, basis, _ = principal(first)
            centred = second - mean.unsqueeze(1)
            shares.append(float((centred @ basis[..., :r]).square().sum() / centred.square().sum()))
        return sum(shares) / len(shares)

    plain, rotated, values = held_out(before, 0, 16), held_out(after, 0, 16), held_out(before, 1, 16)
    assert plain > rotated + 0.05 and plain > values + 0.1


def test_what_is_recorded_of_low_rank() -> None:
    """Over five texts, 95 % intervals of the ratio of KL: the sink, the rotation, and 4 bits behind."""
    from kvlab.lesson.recorded import Recorded, recorded
    from kvlab.measure.quality_stats import times

    run = recorded("quality")
    assert isinstance(run, Recorded) and not run.report.commit.endswith("dirty")
    rows = [row for row in run.select(model="smollm2-135m") if "kl" in row]
    kl = {row["method"]: row["kl"] for row in rows}
    size = {row["method"]: row["bytes"]["marginal"] for row in rows}
    assert all(len(values) >= 5 for values in kl.values())
    assert times(kl["rank-v-48-no-sink"], kl["rank-v-48"]).low > 4, "without exact sinks low rank breaks"
    assert times(kl["rank-k-32-rotated"], kl["rank-k-32"]).low > 3, "keys lose their low rank by rotation"
    assert size["rank-32-48-int4"] == size["kivi-2"] == 4320
    assert times(kl["kivi-2"], kl["rank-32-48-int4"]).low > 1, "low rank and 4 bits, or all in 2 bits"
