"""What the doctor can examine: one decoding step, and what else its owner lets us try."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Unable(NotImplementedError):
    """A subject has no way to do this; the probe that asked is reported as not probed."""


class Subject:
    """A decoding step as the doctor sees it: tokens and a state go in, logits and the next state come out.

    An adapter writes `step`, and of the rest what its library can do. `state` belongs to the adapter; None
    starts a new text. A probe that meets `Unable` is reported as not probed.
    """

    name: str = "step"
    vocab_size: int
    batched: bool = True  # takes more than one row
    longest: int | None = None  # tokens that a text may have; None: no limit is known
    lossy: str | None = None  # what its cache loses on purpose, in words; None: it means to be exact

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """Logits `[batch, new, vocab]` of the new `tokens [batch, new]`, int64, and the state after them.

        mask: bool `[batch, new]`, False where a token is padding.
        """
        raise NotImplementedError

    def full(self, tokens: Tensor) -> Tensor:
        """The reference: logits `[batch, tokens, vocab]` of whole texts, computed without any cache."""
        return self.step(tokens, None)[0]

    def crop(self, state: Any, length: int) -> Any:
        """The state as it was after the first `length` tokens."""
        raise Unable

    def fork(self, state: Any) -> Any:
        """A state that goes its own way; `state` itself must not notice."""
        raise Unable

    def reorder(self, state: Any, rows: list[int]) -> Any:
        """The state whose row i continues what was row `rows[i]`."""
        raise Unable

    def reset(self, state: Any) -> Any:
        """The same state, emptied for the next text (a static cache is used again)."""
        raise Unable

    def to(self, dtype: torch.dtype) -> Subject:
        """The same subject computing in `dtype`; float64 tells rounding from a bug."""
        raise Unable

    def train(self, on: bool) -> None:
        """Switch train mode, as `nn.Module.train`."""
        raise Unable


class CacheSubject(Subject):
    """A subject whose state is a cache that crops, forks and reorders by itself."""

    def crop(self, state: Any, length: int) -> Any:
        state.crop(length)
        return state

    def fork(self, state: Any) -> Any:
        return state.fork()

    def reorder(self, state: Any, rows: list[int]) -> Any:
        state.reorder(rows)
        return state
