"""The store of an encoder–decoder: the target's entries grow, the source's are written once.

In translation the decoder attends to two texts. Keys and values of the target are appended token by token, as
everywhere. Those of the source depend on the encoder's output alone, so they are the same in every step
(Vaswani et al., 2017, section 3.2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.stores.base import Knobs, Layer, Step, View
from kvlab.stores.dynamic import Dynamic, DynamicLayer
from kvlab.stores.stream import GrowingStream

if TYPE_CHECKING:
    from kvlab.cache import Cache
    from kvlab.model.config import Config


class Cross(Dynamic):
    """Self entries as in a dynamic store, and beside them the cross entries of the source.

    A codec writes both, in their own streams; an eviction or a selection works on the self entries alone.

    Raises:
        ValueError: the model has no encoder.
    """

    name = "cross"

    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        return CrossLayer(knobs, self.growth)

    def refuse(self, knobs: Knobs, config: Config, index: int) -> None:
        if not getattr(config, "encoder_layers", 0):  # as a TranslatorConfig has
            raise ValueError(f'{config.name} has no encoder, so nothing to put across; use store="dynamic".')


class CrossLayer(DynamicLayer):
    """A dynamic layer, and two streams that are filled once."""

    def __init__(self, knobs: Knobs, growth: float):
        super().__init__(knobs, growth)
        self.source_keys = GrowingStream(knobs.key_codec)
        self.source_values = GrowingStream(knobs.value_codec)

    @property
    def has_source(self) -> bool:
        return self.source_keys.slots > 0

    def fill(self, k: Tensor, v: Tensor) -> None:
        """Take keys and values of the whole source, each `[batch, kv_heads, source, head_dim]`."""
        assert not self.has_source, "a source is written once"
        for stream, x in ((self.source_keys, k), (self.source_values, v)):
            stream.append(x)
            stream.seal()
            stream.commit()
        if self.bytes_read is not None:  # `settle` has counted the self entries
            self.bytes_read += self.source_bytes

    def source(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the source, decoded, each `[batch, kv_heads, source, head_dim]`."""
        return self.source_keys.read(), self.source_values.read()

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        super().settle(queries, mass, view, step)
        if self.bytes_read is not None:
            self.bytes_read += self.source_bytes

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        self.source_keys.reorder(rows)
        self.source_values.reorder(rows)

    def fork(self) -> CrossLayer:
        twin = super().fork()
        assert isinstance(twin, CrossLayer)
        twin.source_keys, twin.source_values = self.source_keys.fork(), self.source_values.fork()
        return twin

    @property
    def source_bytes(self) -> int:
        """Stored bytes of the source's entries."""
        return self.source_keys.nbytes + self.source_values.nbytes

    def stored_bytes(self, slots: int) -> int:
        return super().stored_bytes(slots) + self.source_bytes

    def full_read_bytes(self, slots: int) -> int:
        return super().full_read_bytes(slots) + self.source_bytes

    def tensors(self) -> list[Tensor]:
        return [*super().tensors(), *self.source_keys.tensors(), *self.source_values.tensors()]


@dataclass(frozen=True)
class Parts:
    """Stored bytes of a cache, the two parts apart."""

    own: int  # of the target, which grows
    cross: int  # of the source, which does not


def parts(cache: Cache) -> Parts:
    """How many of `cache.nbytes` are entries of the target, and how many of the source."""
    cross = sum(layer.source_bytes for layer in cache.layers if isinstance(layer, CrossLayer))
    return Parts(cache.nbytes - cross, cross)
