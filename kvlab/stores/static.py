"""The store that is allocated once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import beyond_single
from kvlab.stores.base import Knobs, Layer, Step, Store, View
from kvlab.stores.fixed import FixedStream
from kvlab.stores.index import index_of
from kvlab.stores.stream import nbytes

if TYPE_CHECKING:
    from kvlab.model.config import Config


class Static(Store):
    """`capacity` slots for each of `batch` sequences, allocated at once and written in place.

    Reads cover the whole capacity under a mask, so the shapes of a step never change and it can be
    compiled. A text that grows past the capacity is refused before anything is written.

    Raises:
        ValueError: if `capacity` or `batch` is less than 1.
    """

    name = "static"
    compilable = True

    def __init__(self, capacity: int, batch: int = 1):
        if capacity < 1 or batch < 1:
            raise ValueError(
                f"a static cache needs capacity >= 1 and batch >= 1, not {capacity} and {batch}."
            )
        self.capacity: int = capacity
        self.batch: int = batch

    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        shape = (self.batch, config.num_key_value_heads, 1, config.head_dim)
        like = torch.zeros(shape, dtype=dtype, device=device)
        return StaticLayer(knobs, like, self.capacity)

    def refuse(self, knobs: Knobs, config: Config, index: int) -> None:
        if knobs.eviction is not None:
            raise ValueError(
                f"{type(knobs.eviction).__name__} would free nothing in a static store, whose slots are "
                'allocated for good; use store="dynamic".'
            )
        for codec in (knobs.key_codec, knobs.value_codec):
            why = codec and beyond_single(codec)
            if why is not None:
                raise ValueError(
                    f"{type(codec).__name__} {why}, and a static store writes each token into a slot of its "
                    'own, for good; use store="dynamic", or a codec of single tokens.'
                )


class StaticLayer(Layer):
    """Two fixed streams; which of their slots are used is written in the cache's ledger."""

    def __init__(self, knobs: Knobs, like: Tensor, capacity: int):
        self.knobs = knobs
        self.keys = FixedStream(knobs.key_codec, like, capacity)
        self.values = FixedStream(knobs.value_codec, like, capacity)
        self.index = index_of(knobs.selection)

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        self.keys.append(k, step.slots)
        self.values.append(v, step.slots)
        rope = (step.positions.unsqueeze(1), step.ledger) if self.knobs.plain_keys else None
        return View(self.keys, self.values, step.ledger, rope)

    def filled(self, view: View, step: Step) -> int:
        return int(step.slots[-1]) + 1

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        self.keys.seal()
        self.values.seal()

    def crop(self, slots: int, tokens: Tensor) -> None:
        # The cache frees the slots in its ledger; the next arrivals overwrite what lies there.
        if self.index is not None:
            self.index.crop(slots)

    def drop_unsettled(self, slots: int, tokens: Tensor) -> None:
        self.keys.fresh = self.values.fresh = None
        if self.index is not None:
            self.index.crop(slots)

    def reorder(self, rows: Tensor) -> None:
        self.keys.reorder(rows)
        self.values.reorder(rows)
        if self.index is not None:
            self.index.reorder(rows)

    def fork(self) -> StaticLayer:
        twin = copy.copy(self)
        twin.keys, twin.values = self.keys.fork(), self.values.fork()
        twin.index = self.index and self.index.fork()
        return twin

    def stored_bytes(self, slots: int) -> int:
        index = self.index.nbytes if self.index else 0
        return slots * (self.keys.slot_bytes() + self.values.slot_bytes()) + index

    def full_read_bytes(self, slots: int) -> int:
        return nbytes([*self.keys.tensors(), *self.values.tensors()])

    def tensors(self) -> list[Tensor]:
        index = self.index.tensors() if self.index else []
        return [*self.keys.tensors(), *self.values.tensors(), *index]
