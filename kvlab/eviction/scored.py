"""Keep the entries with the highest scores, at every step."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.eviction.base import Columns, Eviction
from kvlab.eviction.choosing import best, most_held, protected

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class Scored(Eviction):
    """Each KV head keeps `budget` entries: the first `sinks`, the last `recent`, and the best of the others.

    Acts after every step that leaves more than the budget. A policy of this kind says what `scores` are.

    Raises:
        ValueError: if `sinks` is negative, `recent` less than 1, or `budget` less than both together.
    """

    def __init__(self, budget: int, sinks: int = 0, recent: int = 1):
        name = type(self).__name__
        if sinks < 0 or recent < 1:
            raise ValueError(f"{name} needs sinks >= 0 and recent >= 1, not {sinks} and {recent}.")
        if budget < sinks + recent:
            raise ValueError(
                f"{name} always keeps {sinks} sinks and {recent} recent entries, and a budget of {budget} "
                f"has no room for them; give budget >= {sinks + recent}."
            )
        self.budget, self.sinks, self.recent = budget, sinks, recent

    @abstractmethod
    def scores(self, view: View, step: Step, columns: Columns) -> Tensor:
        """How much each entry is worth, `[batch, 1 or kv_heads, slots]`, finite."""

    def keep(self, view: View, step: Step, columns: Columns) -> Tensor | None:
        if most_held(view.positions) <= self.budget:
            return None
        scores, positions = torch.broadcast_tensors(self.scores(view, step, columns), view.positions)
        safe = protected(positions, step, self.sinks, self.recent)
        return best(scores.masked_fill(safe, float("inf")), positions, self.budget)
