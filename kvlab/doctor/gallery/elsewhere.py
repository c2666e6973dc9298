"""The same misuse on another library, as its users write it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# (model, ids [1, tokens], the tokens after them) -> logits [at most so many, vocab], row i is what token i
# would be chosen from
Way = Callable[[Any, Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Found:
    """What came of it. Errors are the largest |Δlogit| against full recompute."""

    error: float | None  # None: the library refused
    raised: str | None  # how it refused
    right_error: float | None  # None: the right way is lossy, and the error is its distance from that


@dataclass(frozen=True)
class Elsewhere:
    """A misuse beside its fix on another library, which is imported only where this is run."""

    wrong: Way
    right: Way
    model: Callable[[], Any]  # a small random model; the same numbers every time
    note: str = ""
    lossy: bool = False  # entries are missing in the right way too

    @torch.no_grad()
    def compare(
        self, model: Any = None, ids: Tensor | None = None, new: Sequence[int] | None = None
    ) -> Found:
        """Run both ways.

        model: any of the kind; None: the small one. ids: the prompt `[1, tokens]`, new: the tokens after it;
        None: random ones.
        """
        model = self.model() if model is None else model
        drawn = torch.randint(256, (1, 36), generator=torch.Generator().manual_seed(1))
        ids = drawn[:, :24] if ids is None else ids
        new = drawn[0, 24:].tolist() if new is None else list(new)
        text = torch.cat([ids, torch.tensor([new[:-1]], dtype=torch.int64)], dim=1)
        out = model(text)
        truth = getattr(out, "logits", out)[0, ids.shape[1] - 1 :]
        right = self.right(model, ids, new)
        error = None if self.lossy else _distance(right, truth)
        truth = right if self.lossy else truth
        try:
            with seeded():
                return Found(_distance(self.wrong(model, ids, new), truth), None, error)
        except (IndexError, RuntimeError) as refused:
            return Found(None, f"{type(refused).__name__}: {refused}", error)


def _distance(logits: Tensor, truth: Tensor) -> float:
    return float((logits.detach() - truth[: len(logits)]).abs().max())


@contextmanager
def seeded() -> Iterator[None]:
    """The same random numbers every time (dropout draws them), and everyone else's untouched."""
    state = random.getstate()  # x-transformers' layer dropout draws from Python's own
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            random.seed(0)
            yield
    finally:
        random.setstate(state)
