"""The store of layers that have a window: a ring that keeps what the next token can still see."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import beyond_single
from kvlab.stores.base import Knobs, Layer, Step, Store, View
from kvlab.stores.ring import RingStream, held

if TYPE_CHECKING:
    from kvlab.model.config import Config


class Sliding(Store):
    """A ring in every layer, for models whose layers all have a window (as Mistral 7B; Jiang et al., 2023).

    With a window of w tokens, the last w - 1 are kept after a step: no later token can see more. The ring
    has w slots, one of which is free for the token that comes. Padding is not kept.

    capacity: None: rings grow as tokens come, until they have w slots. Otherwise rings are allocated at
    once, with w slots or `capacity`, whichever is less, and so is the ledger, for `capacity` tokens: four
    bytes each. Steps can then be compiled, and a longer text is refused. batch: as in `Static`. growth: as
    in `Dynamic`.

    Raises:
        ValueError: a model with a layer that has no window; an eviction; a codec that works on blocks or
            keeps some tokens exact; settings out of range.
    """

    name = "sliding"

    def __init__(self, capacity: int | None = None, batch: int = 1, growth: float = 2.0):
        if (capacity is not None and capacity < 1) or batch < 1:
            raise ValueError(
                f"a {self.name} cache needs batch >= 1, and capacity >= 1 where it is given, "
                f"not {batch} and {capacity}."
            )
        if growth < 1:
            raise ValueError(f"growth is the new size over the old and cannot be {growth}; use 1.0 or more.")
        self.capacity, self.growth = capacity, growth
        self.batch = None if capacity is None else batch
        self.compilable = capacity is not None

    def ring(self, config: Config) -> int | None:
        window = config.sliding_window
        if window is None or self.capacity is None:
            return window
        return min(window, self.capacity)

    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        window, size = config.window(index), self.ring(config)
        assert window is not None and size is not None  # `refuse` has seen to it
        like = None
        if self.batch is not None:
            like = torch.zeros(
                self.batch, config.num_key_value_heads, 1, config.head_dim, dtype=dtype, device=device
            )
        keys = RingStream(knobs.key_codec, dtype, size, self.growth, like)
        values = RingStream(knobs.value_codec, dtype, size, self.growth, like)
        return RingLayer(knobs, window, keys, values, fixed=self.batch is not None)

    def refuse(self, knobs: Knobs, config: Config, index: int) -> None:
        if config.window(index) is None:
            raise ValueError(
                f'store="{self.name}" keeps the window of each layer, and layer {index} of {config.name} has '
                'none: it sees everything; use store="hybrid".'
            )
        if knobs.eviction is not None:
            raise ValueError(
                f"{type(knobs.eviction).__name__} cannot choose what a ring forgets, which is always the "
                f'oldest token; leave layer {index} out (its `at` returns None), or use store="dynamic".'
            )
        if knobs.selection is not None and knobs.selection.page:
            raise ValueError(
                f"{type(knobs.selection).__name__} keeps an index of slots in order, and a ring writes over "
                f'its slots; leave layer {index} out (its `at` returns None), or use store="dynamic".'
            )
        for codec in (knobs.key_codec, knobs.value_codec):
            why = codec and beyond_single(codec)
            if why is not None:
                raise ValueError(
                    f"{type(codec).__name__} {why}, and a ring frees its slots one by one; leave layer "
                    f'{index} exact with PerLayer, use a codec of single tokens, or store="dynamic".'
                )


class RingLayer(Layer):
    """Two rings; which position lies in which slot follows from the tokens seen."""

    def __init__(self, knobs: Knobs, window: int, keys: RingStream, values: RingStream, fixed: bool):
        self.knobs, self.window, self.fixed = knobs, window, fixed
        self.keys, self.values = keys, values

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        turn = step.ring
        assert turn is not None  # the store's `ring` asks for it
        self.keys.append(k, turn)
        self.values.append(v, turn)
        rope = (step.positions.unsqueeze(1), turn.positions) if self.knobs.plain_keys else None
        return View(self.keys, self.values, turn.positions, rope)

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        if step.tokens > 1 or self.keys.fresh is not None or self.values.fresh is not None:
            if self.bytes_read is None:  # counted before any is freed or encoded
                self.bytes_read = self.keys.nbytes + self.values.nbytes
        self.keys.settle()
        self.values.settle()

    def commit(self) -> None:
        self.keys.commit()
        self.values.commit()

    def refuse_crop(self, seen: Tensor, wanted: Tensor) -> None:
        first = (wanted - self.window + 1).clamp(min=0)  # [batch] what a token at `wanted` looks back to
        oldest = (seen - self.window + 1).clamp(min=0)  # [batch] what the ring still holds
        lost = ((first < oldest) & (first < wanted)).nonzero().flatten().tolist()
        if lost:
            row = lost[0]
            raise ValueError(
                f"row {row} would go on at position {int(wanted[row])}, whose window of {self.window} "
                f"begins at {int(first[row])}, but its sliding layers have forgotten all before "
                f"{int(oldest[row])}; crop to 0 and pass the tokens again, or keep a fork() to go back to."
            )

    def crop(self, slots: int, tokens: Tensor) -> None:
        pass  # what the ring holds follows from the tokens seen, which the cache turns back

    def drop_unsettled(self, slots: int, tokens: Tensor) -> None:
        self.keys.drop()
        self.values.drop()

    def reorder(self, rows: Tensor) -> None:
        self.keys.reorder(rows, self.fixed)
        self.values.reorder(rows, self.fixed)

    def fork(self) -> RingLayer:
        twin = copy.copy(self)
        twin.keys, twin.values = self.keys.fork(), self.values.fork()
        return twin

    def positions(self, ledger: Tensor) -> Tensor:
        seen = (ledger >= 0).sum(dim=-1, dtype=torch.int32).squeeze(1)  # [batch]
        return held(seen, seen, self.keys.slots, self.keys.size, self.window).unsqueeze(1)

    def stored_bytes(self, slots: int) -> int:
        return min(slots, self.window - 1) * (self.keys.slot_bytes() + self.values.slot_bytes())

    def full_read_bytes(self, slots: int) -> int:
        read = self.keys.size if self.fixed else min(slots, self.keys.size)
        return read * (self.keys.slot_bytes() + self.values.slot_bytes())

    def tensors(self) -> list[Tensor]:
        return [*self.keys.parts.values(), *self.values.parts.values()]
