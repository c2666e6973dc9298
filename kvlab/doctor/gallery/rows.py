"""The rows of a batch change places, and their cache does not."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.scenes import reordered
from kvlab.doctor.gallery.tape import Stepper, Tape


def wrong(cache: Tape, rows: list[int]) -> Tape:
    return cache


def right(cache: Tape, rows: list[int]) -> Tape:
    cache.reorder(rows)
    return cache


class RowStepper(Stepper):
    """A right step; the code is what happens to the cache when row i goes on with what row `rows[i]` was."""

    def run(self, cache: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
        self.refuse_padding(mask)
        return cache(tokens)

    def reorder(self, state: Any, rows: list[int]) -> Any:
        return self.code(state, rows)


MISUSE = Misuse(
    "rows-permuted",
    "Rows change places and the cache does not",
    symptom="One text at a time is exact. With beams, or after finished rows leave a batch, a row goes on in "
    "another row's text.",
    why="A row of the cache belongs to a row of the batch by number alone. Beam search picks new rows at "
    "each step; without a reorder they read the past of other beams.",
    fix="Reorder the cache with the rows, at every step that moves them.",
    wrong_code=wrong,
    right_code=right,
    scene=reordered,
    make=RowStepper,
)
