"""No store at all: naive recompute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.stores.base import Knobs, Layer, Step, Store, View
from kvlab.stores.buffer import gather_slots

if TYPE_CHECKING:
    from kvlab.model.config import Config


class NoStore(Store):
    """Keeps token ids and nothing else; every call computes all keys and values again."""

    name = "none"
    recomputes = True

    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        return NoLayer()

    def refuse(self, knobs: Knobs, config: Config, index: int) -> None:
        if any(knob is not None for name, knob in vars(knobs).items() if name != "kernels"):
            raise ValueError('store="none" keeps no entries for a codec, eviction or selection to work on.')


@dataclass
class Passing:
    """A stream that lasts for one step."""

    x: Tensor  # [batch, kv_heads, tokens, head_dim]

    def read(self) -> Tensor:
        return self.x

    def exact(self) -> Tensor:
        return self.x

    def span(self, start: int, stop: int) -> Tensor:
        return self.x[:, :, start:stop]

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        x = gather_slots(self.x, rows)
        return x, x.nbytes

    @property
    def nbytes(self) -> int:
        return self.x.nbytes


class NoLayer(Layer):
    """Hands the keys and values of this step to attention, and forgets them."""

    knobs = Knobs()

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        return View(Passing(k), Passing(v), step.ledger)

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        pass

    def crop(self, slots: int, tokens: Tensor) -> None:
        pass

    def drop_unsettled(self, slots: int, tokens: Tensor) -> None:
        pass

    def reorder(self, rows: Tensor) -> None:
        pass

    def fork(self) -> NoLayer:
        return NoLayer()

    def positions(self, ledger: Tensor) -> Tensor:
        return ledger[:, :, :0]

    def stored_bytes(self, slots: int) -> int:
        return 0

    def tensors(self) -> list[Tensor]:
        return []
