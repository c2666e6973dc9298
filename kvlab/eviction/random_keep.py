"""Keep entries at random: what every choice must beat."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.eviction.base import Columns
from kvlab.eviction.scored import Scored

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class RandomKeep(Scored):
    """The first `sinks`, the last `recent`, and for the rest of the `budget` a fair draw of all others.

    Each position draws a lot, the same at every step, and the highest stay: so the entries kept are a fair
    sample of all that came, as in reservoir sampling (Vitter, 1985). Layers and heads draw their own lots.

    Raises:
        ValueError: if `sinks` is negative, `recent` less than 1, or `budget` less than both together.
    """

    def __init__(self, budget: int = 512, sinks: int = 4, recent: int = 32, seed: int = 0):
        super().__init__(budget, sinks, recent)
        self.seed = seed

    def at(self, layer: int) -> RandomKeep:
        mine = copy.copy(self)
        mine.seed = self.seed * 1009 + layer
        return mine

    def scores(self, view: View, step: Step, columns: Columns) -> Tensor:
        heads = view.keys.read().shape[1]
        head = torch.arange(heads, device=view.positions.device)[:, None]
        return lots(view.positions.long() + head * 100_003 + self.seed * 10_000_019)


def lots(x: Tensor) -> Tensor:
    """A number in [0, 1) for each integer of `x`, always the same: its bits mixed twice."""
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).double() / 2**32
