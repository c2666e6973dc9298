"""What a theory of a misuse is: a name, words, and what it lays on the sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kvlab.doctor.sheet import Lay, Lines, Sheet, causal, count

At = Callable[[Sheet, Tensor, Tensor], Tensor]  # (sheet, tokens, real) -> positions [batch, new]
See = Callable[[Sheet, Tensor, Tensor, Tensor], Tensor]  # (…, right mask) -> mask [batch, new, past + new]


@dataclass(frozen=True)
class Theory:
    """`lay` predicts exactly what a decoding step with the misuse `name` computes."""

    name: str
    says: str  # what happens, in words
    lay: Lay


def placed(name: str, says: str, at: At) -> Theory:
    """Everything right but the positions."""
    return Theory(name, says, lambda s, t, r: Lines(t, at(s, t, r), causal(s, r)))


def masked(name: str, says: str, see: See) -> Theory:
    """Everything right but the mask."""
    return Theory(name, says, lambda s, t, r: Lines(t, count(s, r), see(s, t, r, causal(s, r))))


def from_zero(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
    """Positions that start anew in every call."""
    return (r.long().cumsum(1) - 1).clamp(min=0)
