"""Fixed patterns: who sees whom is decided by positions alone, before any text is seen."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Self

from torch import Tensor

from kvlab.selection.base import Pick, Selection, rows_where

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class Pattern(Selection):
    """A selection that looks at positions only, so that it serves a prompt as well as single tokens.

    Causality comes on top: `allows` may say yes to the future.
    """

    block: int = 64  # queries of a prompt that are computed together, over the keys that any of them reads

    @abstractmethod
    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether a query reads a key, by their positions (broadcast against each other), elementwise."""

    in_prompt: bool = True

    def pattern(self) -> Pattern | None:
        return self if self.in_prompt else None

    def after_prompt(self) -> Self:
        """The same pattern for single tokens only: a prompt is read in full."""
        twin = copy.copy(self)
        twin.in_prompt = False
        return twin

    def order(self, positions: Tensor) -> Tensor | None:
        """A sort key for queries at `positions [tokens]`: equal keys read alike. None: as they come."""
        return None

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        asked, held = step.positions[:, None, :, None], view.positions[:, :, None, :]
        read = self.allows(asked, held) & visible  # [batch, 1 or kv_heads, 1, slots]
        return Pick(rows_where(read.squeeze(2)), gaps=True)


def at_least(name: str, least: int, **numbers: int) -> None:
    """Raise ValueError unless all `numbers` are so large."""
    for what, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} needs {what} >= {least}, not {number}.")
