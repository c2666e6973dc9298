"""Lesson 06: from logits to a token, and what a seed, rounding and a cache have to do with it.

Loops that write text, right and broken, are in `l06_loops`; the widget in `l06_sampler`; figures in
`l06_figures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.sampling import Sampling, keep_min_p, keep_top_k, keep_top_p

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def next_logits(lm: Decoder, text: str) -> Tensor:
    """Logits of the token after a text, `[vocab]`, float32 on the CPU."""
    ids = torch.tensor([lm.tokenizer.encode(text)], device=lm.device)
    return lm(ids, last_only=True)[0, -1].float().cpu()


def entropy(probabilities: Tensor) -> float:
    """Entropy of a distribution `[vocab]` in nats; 0 · log 0 counts as 0."""
    return float(torch.special.entr(probabilities.double()).sum())


def kept(logits: Tensor) -> int:
    """How many tokens can still come: those whose logit is not -inf."""
    return int((logits > float("-inf")).sum())


def holding(probabilities: Tensor, share: float) -> int:
    """How many tokens, from the likeliest down, hold `share` of the probability; at least 1."""
    return kept(keep_top_p(probabilities.log()[None], share))


# --- the steps of a sampler and their order -------------------------------------------------------------


def steps(sampling: Sampling) -> dict[str, Callable[[Tensor], Tensor]]:
    """The steps of a sampler that are on, in the order of the package; each takes logits `[batch, vocab]`."""
    temperature, top_k, top_p, min_p = sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if temperature > 0:
        found["temperature"] = lambda logits: logits / temperature
    if top_k is not None:
        found["top-k"] = lambda logits: keep_top_k(logits, top_k)
    if top_p is not None:
        found["top-p"] = lambda logits: keep_top_p(logits, top_p)
    if min_p is not None:
        found["min-p"] = lambda logits: keep_min_p(logits, min_p)
    return found


def apply(logits: Tensor, chosen: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits `[vocab]` after some steps, one after the other."""
    logits = logits[None]
    for step in chosen:
        logits = step(logits)
    return logits[0]


def orders(logits: Tensor, sampling: Sampling) -> dict[tuple[str, ...], int]:
    """How many tokens of logits `[vocab]` are kept, for each order in which the steps could be taken."""
    there = steps(sampling)
    return {
        names: kept(apply(logits, (there[name] for name in names))) for names in itertools.permutations(there)
    }


# --- drawing --------------------------------------------------------------------------------------------


def walk(probabilities: Tensor, u: Tensor) -> Tensor:
    """Walk down the vocabulary until the sum passes `u`: ids `[n]` for `u [n]` in [0, 1).

    probabilities: `[vocab]`, or `[n, vocab]` with a row for each draw.
    """
    reached = probabilities.double().cumsum(dim=-1)
    target = u.double().to(reached.device) * reached[..., -1]
    if reached.dim() == 1:
        return torch.searchsorted(reached, target, right=True)
    return torch.searchsorted(reached, target[:, None], right=True)[:, 0]


def race(probabilities: Tensor, u: Tensor) -> Tensor:
    """Every token runs: it needs the time -log(u) / p, and the first one home is drawn; ids `[n]`.

    probabilities, u: `[n, vocab]`, u in [0, 1). `torch.multinomial` draws single tokens in this way; here the
    noise is given, so that the same numbers give the same tokens on every machine.
    """
    time = -u.double().clamp(min=1e-300).log().clamp(max=-1e-300)  # finite and above 0, also for u = 0 or 1
    return (probabilities.double() / time).argmax(dim=-1)


def frequencies(ids: Tensor, size: int) -> Tensor:
    """How often each of `size` ids was drawn, as shares `[size]`."""
    return torch.bincount(ids, minlength=size) / len(ids)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """Pearson's sum of (counted - expected)² / expected; both `[n]`, as counts."""
    return float(((counts - expected) ** 2 / expected).sum())


def flips(one: Tensor, other: Tensor, sampling: Sampling, draws: int = 50) -> tuple[float, float]:
    """The share of draws that give another token for slightly different logits, by walk and by race.

    one, other: `[steps, vocab]`, the same places of a text computed in two ways; both get the same random
    numbers. The race is the package's own `draw`.
    """
    walked, raced = 0, 0
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        u = torch.rand(40 * draws, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        p, q = (sampling.probabilities(x[None])[0] for x in (a, b))
        walked += int((walk(p, u) != walk(q, u)).sum())
        ids = (sampling.draw(x.expand(draws, -1), torch.Generator(x.device).manual_seed(i)) for x in (a, b))
        raced += int((next(ids) != next(ids)).sum())
    return walked / (40 * draws * len(one)), raced / (draws * len(one))


# --- texts ----------------------------------------------------------------------------------------------


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The index of the first token that differs; None where none does."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((i for i, (a, b) in pairs if a != b), None)


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """The share of runs of `n` tokens that stood in the text before."""
    runs = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(runs)) / len(runs)
