"""The sampling functions, by the distribution that they draw from."""

from __future__ import annotations

import pytest
import torch

import kvlab
from kvlab.sampling import Sampling, keep_min_p, keep_top_k, keep_top_p

LOGITS = torch.log(torch.tensor([[0.40, 0.25, 0.15, 0.10, 0.06, 0.04]]))


def drawn(sampling: Sampling, logits: torch.Tensor = LOGITS, n: int = 40_000, seed: int = 0) -> torch.Tensor:
    """Frequencies of `n` draws, `[vocab]`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sampling.draw(logits.expand(n, -1), generator)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / n


def agree(frequencies: torch.Tensor, expected: torch.Tensor, n: int = 40_000) -> bool:
    """Within five standard errors everywhere, and nothing where nothing may be."""
    error = (expected * (1 - expected) / n).sqrt()
    return bool(((frequencies - expected).abs() <= 5 * error).all())


CASES = {
    "as it is": (Sampling(1.0), [0.40, 0.25, 0.15, 0.10, 0.06, 0.04]),
    "top-k 3": (Sampling(1.0, top_k=3), [0.50, 0.3125, 0.1875, 0, 0, 0]),
    "top-k above the vocabulary": (Sampling(1.0, top_k=50), [0.40, 0.25, 0.15, 0.10, 0.06, 0.04]),
    "top-p .7 needs three tokens": (Sampling(1.0, top_p=0.7), [0.50, 0.3125, 0.1875, 0, 0, 0]),
    "top-p .3 keeps the best": (Sampling(1.0, top_p=0.3), [1, 0, 0, 0, 0, 0]),
    "min-p .3 of .40 is .12": (Sampling(1.0, min_p=0.3), [0.50, 0.3125, 0.1875, 0, 0, 0]),
    "greedy": (Sampling(), [1, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("sampling, expected", CASES.values(), ids=CASES.keys())
def test_draws_follow_the_stated_distribution(sampling: Sampling, expected: list[float]) -> None:
    expected = torch.tensor(expected, dtype=torch.float32)
    assert torch.allclose(sampling.probabilities(LOGITS)[0], expected, atol=1e-6)
    assert agree(drawn(sampling), expected)


def test_the_comparison_can_fail() -> None:
    assert not agree(drawn(Sampling(1.0)), torch.tensor(CASES["top-k 3"][1]))
    assert not agree(drawn(Sampling(1.1)), torch.tensor(CASES["as it is"][1]))


def test_temperature_comes_before_the_filters() -> None:
    # At temperature 0.5 probabilities are squared: .16 .0625 .0225 .01 .0036 .0016, sum .2602. Two of them
    # reach .8 then, where the unheated ones need three: the order decides what stays.
    squared = torch.tensor([0.16, 0.0625, 0, 0, 0, 0])
    expected = squared / squared.sum()
    assert torch.allclose(Sampling(0.5, top_p=0.8).probabilities(LOGITS)[0], expected, atol=1e-6)


def test_top_p_sees_what_top_k_left() -> None:
    # top-k 2 leaves .40 and .25, that is .615 and .385: the best alone reaches .6 only after top-k.
    assert Sampling(1.0, top_k=2, top_p=0.6).probabilities(LOGITS)[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert (Sampling(1.0, top_p=0.6).probabilities(LOGITS)[0] > 0).sum() == 2


def test_filters_keep_the_logits_that_stay() -> None:
    for kept in (keep_top_k(LOGITS, 2), keep_top_p(LOGITS, 0.6), keep_min_p(LOGITS, 0.5)):
        assert torch.equal(kept[0, :2], LOGITS[0, :2]) and kept[0, 2:].isneginf().all()


def test_ties_with_the_kth_all_stay() -> None:
    assert (keep_top_k(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), 2) > float("-inf")).sum() == 3


def test_rows_are_drawn_apart() -> None:
    logits = torch.stack([LOGITS[0], LOGITS[0].flip(0)])
    assert Sampling(1.0, top_k=1).draw(logits).tolist() == [0, 5]


def test_the_same_seed_draws_the_same() -> None:
    one, same, other = (drawn(Sampling(1.0), n=200, seed=s) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        kvlab.Sampling(**settings)
