"""More entries for the lower layers, fewer for the upper ones."""

from __future__ import annotations

import copy
from typing import Literal

from torch import Tensor

from kvlab.eviction.choosing import best, most_held
from kvlab.eviction.snapkv import SnapKV


class PyramidKV(SnapKV):
    """SnapKV with a budget that falls evenly from the first layer to the last; `budget` is their average.

    "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling" (Cai et al., 2024).
    Beside its window, the last layer keeps the average divided by `beta`, and the first twice the average
    less that; where the first would need more than the prompt has, the slope is less.

    layers: of the model, `lm.config.num_hidden_layers`.

    Raises:
        ValueError: as in `SnapKV`; if `layers` or `beta` is less than 1; for a model of more layers.
    """

    def __init__(
        self,
        budget: int,
        layers: int,
        window: int = 32,
        kernel: int = 5,
        pool: Literal["avg", "max"] = "avg",
        beta: float = 20.0,
    ):
        super().__init__(budget, window, kernel, pool)
        if layers < 1 or beta < 1:
            raise ValueError(f"PyramidKV needs layers >= 1 and beta >= 1, not {layers} and {beta}.")
        self.layers, self.beta, self.layer = layers, beta, 0

    def at(self, layer: int) -> PyramidKV:
        if layer >= self.layers:
            raise ValueError(
                f"this PyramidKV was made for {self.layers} layers, and the model has more; "
                "give layers=lm.config.num_hidden_layers."
            )
        mine = copy.copy(self)
        mine.layer = layer
        return mine

    def budget_at(self, layer: int, tokens: int) -> int:
        """Entries that a KV head of `layer` keeps of a prompt of `tokens`, its window included."""
        average = self.budget - self.window
        last = average / self.beta
        first = min(2 * average - last, tokens - self.window)
        last = 2 * average - first
        step = (first - last) / max(1, self.layers - 1)
        return self.window + round(first - layer * step)

    def choose(self, scores: Tensor, safe: Tensor, positions: Tensor) -> Tensor:
        n = self.budget_at(self.layer, most_held(positions))  # of the longest text of a batch
        return best(scores.masked_fill(safe, float("inf")), positions, n)
