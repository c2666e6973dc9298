"""The selection knob: which of the stored entries does a query read?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


@dataclass
class Pick:
    """The entries to read for one query token."""

    rows: Tensor  # [batch, kv_heads, n] slots
    bytes_scored: int = 0  # what choosing them read


class Selection(ABC):
    """Chooses entries for each query and drops none: what is not read now can be read later."""

    def at(self, layer: int) -> Selection | None:
        """The selection of one layer; None: this layer reads everything."""
        return self

    @abstractmethod
    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        """Choose for `queries [batch, heads, 1, head_dim]`; None: read everything.

        visible: `[batch, 1 or kv_heads, 1, slots]`, True where causality, padding and the layer's window
        allow a look. Called for single tokens only: a prompt is read in full.
        """
