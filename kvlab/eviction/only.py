"""A policy for some layers only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvlab.eviction.base import Eviction

if TYPE_CHECKING:
    from torch import Tensor

    from kvlab.eviction.base import Columns
    from kvlab.stores.base import Step, View


class Only(Eviction):
    """`eviction` in the given layers; the others keep everything.

    For hybrid stores, whose rings free by themselves: `Only(H2O(128), layers=(5, 11, 17))` for Gemma 3
    270M, which sees everything in these three.

    Raises:
        ValueError: if no layer is given, or a negative one.
    """

    def __init__(self, eviction: Eviction, layers: Iterable[int]):
        self.eviction, self.layers = eviction, frozenset(layers)
        if not self.layers or min(self.layers) < 0:
            raise ValueError(f"Only needs the numbers of the layers, from 0, not {sorted(self.layers)}.")

    def at(self, layer: int) -> Eviction | None:
        return self.eviction.at(layer) if layer in self.layers else None

    def keep(self, view: View, step: Step, columns: Columns) -> Tensor | None:
        raise AssertionError("a layer asks the policy that `at` gives it")
