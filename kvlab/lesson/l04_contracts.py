"""Exercise 04.1: three contracts on a small random model, and the loops that a learner's steps run in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import kvlab
from kvlab.doctor.loose import Loose

from .l04_libraries import in_x_transformers

CONTRACTS = ("told", "appends", "slices")


@functools.cache
def models() -> tuple[Any, Any]:
    """The random model, and the same weights in x-transformers."""
    tiny = kvlab.load("tiny", device="cpu", dtype=torch.float32)
    return tiny, in_x_transformers(tiny)


class Kept:
    """A model with its cache: `kept(tokens)`, or `kept(tokens, positions)` where it is told, gives logits."""

    def __init__(self, contract: str) -> None:
        self.contract = contract
        self.cache: Any = None
        if contract != "slices":
            self.cache = Loose(models()[0]) if contract == "told" else kvlab.Cache(models()[0])

    def __call__(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        tiny, slicing = models()
        if self.contract == "told":
            return self.cache(tokens, positions)
        if self.contract == "appends":
            return tiny(tokens, self.cache)
        logits, self.cache = slicing(tokens, cache=self.cache, return_intermediates=True)
        return logits


def run_steps(steps: Any, text: Tensor, sizes: Sequence[int]) -> dict[str, Tensor | None]:
    """Logits `[calls, vocab]` that each of the three loops gets for `text [1, tokens]`, fed in `sizes`.

    x-transformers takes one new token at a time. After the first loop that is wrong the others are None:
    a learner is told of one mistake at a time.
    """
    said: dict[str, Tensor | None] = dict.fromkeys(CONTRACTS)
    for contract in CONTRACTS:
        calls = [sizes[0]] + [1] * sum(sizes[1:]) if contract == "slices" else list(sizes)
        ends = torch.tensor(calls).cumsum(0).tolist()
        kept, step = Kept(contract), getattr(steps, contract)
        with torch.no_grad():
            rows = [step(kept, text[:, :end], end - new) for end, new in zip(ends, calls, strict=True)]
            full = models()[contract == "slices"](text)[0, [end - 1 for end in ends]]
        if any(row is None for row in rows):
            break
        said[contract] = logits = torch.stack([row[0, -1] for row in rows])
        if (logits - full).abs().max() > 1e-2:
            break
    return said
