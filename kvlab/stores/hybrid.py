"""A store for each layer: a ring where the layer has a window, all tokens where it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kvlab.stores.base import Knobs, Layer, Store
from kvlab.stores.dynamic import Dynamic
from kvlab.stores.sliding import Sliding
from kvlab.stores.static import Static

if TYPE_CHECKING:
    from kvlab.model.config import Config


class Hybrid(Store):
    """Sliding layers keep their window, full layers keep everything, as Gemma 3 (2025) is made for.

    The model's layer types decide; where no layer has a window, this is a dynamic store, or a static one.

    capacity: None: full layers grow as a dynamic store does, and rings until they are full. Otherwise
    everything is allocated at once: `capacity` slots for full layers, and for sliding ones the window, or
    the capacity if that is less. Steps can then be compiled, and a longer text is refused: the window
    never becomes smaller than the model's. batch, growth: as in `Sliding`.

    Raises:
        ValueError: what `Sliding`, and `Dynamic` or `Static`, refuse for a layer.
    """

    name = "hybrid"

    def __init__(self, capacity: int | None = None, batch: int = 1, growth: float = 2.0):
        self.sliding = Sliding(capacity, batch, growth)
        self.full: Store = Dynamic(growth) if capacity is None else Static(capacity, batch)
        self.capacity, self.batch = self.sliding.capacity, self.sliding.batch
        self.compilable = self.sliding.compilable

    def of(self, config: Config, index: int) -> Store:
        """The store of one layer."""
        return self.full if config.window(index) is None else self.sliding

    def ring(self, config: Config) -> int | None:
        return self.sliding.ring(config) if "sliding" in config.layer_types else None

    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        return self.of(config, index).layer(index, config, knobs, device, dtype)

    def refuse(self, knobs: Knobs, config: Config, index: int) -> None:
        self.of(config, index).refuse(knobs, config, index)
