"""The store that grows with the text."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.eviction.base import Eviction
from kvlab.stores.base import FREE, Knobs, Layer, Step, Store, View
from kvlab.stores.buffer import gather_slots, to_slots
from kvlab.stores.index import index_of
from kvlab.stores.stream import GrowingStream

if TYPE_CHECKING:
    from kvlab.model.config import Config


class Dynamic(Store):
    """Entries are appended as tokens come; room is reserved by doubling.

    growth: how much room a full buffer gets, relative to what it holds. 1.0 copies everything at every
    token, as concatenation does.

    Raises:
        ValueError: if `growth` is less than 1.
    """

    name = "dynamic"

    def __init__(self, growth: float = 2.0):
        if growth < 1:
            raise ValueError(f"growth is the new size over the old and cannot be {growth}; use 1.0 or more.")
        self.growth = growth

    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        return DynamicLayer(knobs, self.growth)


class DynamicLayer(Layer):
    """Two growing streams; after the first eviction also a ledger and columns of its own."""

    def __init__(self, knobs: Knobs, growth: float):
        self.knobs = knobs
        self._changes = any((knobs.key_codec, knobs.value_codec, knobs.eviction))
        self.keys = GrowingStream(knobs.key_codec, growth)
        self.values = GrowingStream(knobs.value_codec, growth)
        self.ledger: Tensor | None = None  # [batch, kv_heads, slots] int32; None: the shared one holds
        self.columns: dict[str, Tensor] = {}  # name -> [batch, kv_heads, slots]
        self._staged: tuple[Tensor | None, dict[str, Tensor]] = (None, {})
        self.index = index_of(knobs.selection)

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        self.keys.append(k)
        self.values.append(v)
        positions = self._stage(k, step)
        rope = None
        if self.knobs.plain_keys:
            rope = self.knobs.eviction.rope(positions, step) if self.knobs.eviction else None
            rope = rope or (step.positions.unsqueeze(1), positions)
        return View(self.keys, self.values, positions, rope, self._bias(k.dtype))

    def _stage(self, k: Tensor, step: Step) -> Tensor:
        """The ledger and columns as they are if this step succeeds; `settle` makes them so."""
        ledger = self.ledger
        if ledger is not None:
            new = to_slots(step.positions, k.shape[1]).to(ledger.dtype)
            ledger = torch.cat((ledger, new), dim=2)
        columns = {}
        for name, fill in (self.knobs.eviction.columns() if self.knobs.eviction else {}).items():
            new = torch.full(k.shape[:3], fill, dtype=torch.float32, device=k.device)
            old = self.columns.get(name)
            columns[name] = new if old is None else torch.cat((old, new), dim=2)
        self._staged = (ledger, columns)
        return step.ledger if ledger is None else ledger

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        eviction = self.knobs.eviction
        if self.ledger is None or eviction is None or not eviction.merges:
            return None  # nothing has been merged so far
        return eviction.bias(self._staged[1], dtype)

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        (self.ledger, self.columns), self._staged = self._staged, (None, {})
        eviction = self.knobs.eviction
        if self._changes and self.bytes_read is None:
            self.bytes_read = self.keys.nbytes + self.values.nbytes  # counted before any is freed or encoded
        if eviction is not None:
            view.mass = mass
            eviction.observe(queries, mass, view, step, self.columns)
            rows = eviction.keep(view, step, self.columns)
            if rows is not None:
                self.keep(rows, view.positions)
            elif eviction.merges:
                self._merge(eviction, view, step)
        padded = None if step.in_order or self.ledger is not None else step.ledger
        self.keys.seal(padded)
        self.values.seal(padded)

    def commit(self) -> None:
        self.keys.commit()
        self.values.commit()

    def keep(self, rows: Tensor, positions: Tensor) -> None:
        """Free every slot but `rows [batch, 1 or kv_heads, n]` (FREE: none); `positions` as in the view."""
        rows = rows.expand(-1, self.keys.read().shape[1], -1)
        self.keys.keep(rows.clamp(min=0))
        self.values.keep(rows.clamp(min=0))
        if self.index is not None:
            self.index.keep(rows.clamp(min=0))
        self._own(rows, positions)

    def _merge(self, eviction: Eviction, view: View, step: Step) -> None:
        merged = eviction.merge(self.keys.read(), self.values.read(), view, step, self.columns)
        if merged is not None:
            self.keys.rewrite(merged.keys)
            self.values.rewrite(merged.values)
            if self.index is not None:
                self.index.crop(0)
            self._own(merged.rows, view.positions)
            self.columns.update(merged.columns)

    def _own(self, rows: Tensor, positions: Tensor) -> None:
        """A ledger and columns of what was at `rows [batch, kv_heads, n]`."""
        some = rows.clamp(min=0)
        kept = gather_slots(positions.expand(-1, rows.shape[1], -1), some)
        self.ledger = kept.masked_fill(rows < 0, FREE).to(torch.int32)
        self.columns = {name: gather_slots(column, some) for name, column in self.columns.items()}

    def holds(self, positions: Tensor, ledger: Tensor) -> Tensor:
        """Which of `positions [batch, n]` some head holds, `[batch, n]`; `ledger`: the one of this layer."""
        return _find(ledger, positions).flatten(1, 2).any(dim=1)

    def forget(self, positions: Tensor, ledger: Tensor) -> None:
        """Free the entries at `positions [batch, n]`, in all heads."""
        stays = (ledger >= 0) & ~_find(ledger, positions).any(-1)
        n = int(stays.sum(-1).max())
        rows = torch.argsort(stays.to(torch.int8), dim=-1, descending=True, stable=True)[..., :n]
        self.keep(rows.masked_fill(~stays.gather(-1, rows), FREE), ledger)

    def crop(self, slots: int, tokens: Tensor) -> None:
        if self.ledger is not None:
            held = (self.ledger >= 0) & (self.ledger < tokens[:, None, None])
            last = held.any(dim=0).any(dim=0).nonzero()  # slots of any row or head that still hold a token
            slots = int(last[-1]) + 1 if len(last) else 0
            self.ledger = self.ledger.masked_fill(~held, FREE)[:, :, :slots].contiguous()
        self.keys.crop(slots)
        self.values.crop(slots)
        self.columns = {name: column[:, :, :slots].contiguous() for name, column in self.columns.items()}
        if self.index is not None:
            self.index.crop(slots)

    def drop_unsettled(self, slots: int, tokens: Tensor) -> None:
        """Forget what a step brought that never came to its end, whether this layer had settled or not."""
        settled = slots if self.ledger is None else self.ledger.shape[2]
        self.keys.undo(settled)
        self.values.undo(settled)
        self.crop(slots, tokens)

    def reorder(self, rows: Tensor) -> None:
        self.keys.reorder(rows)
        self.values.reorder(rows)
        if self.ledger is not None:
            self.ledger = self.ledger.index_select(0, rows)
        self.columns = {name: column.index_select(0, rows) for name, column in self.columns.items()}
        if self.index is not None:
            self.index.reorder(rows)

    def fork(self) -> DynamicLayer:
        twin = copy.copy(self)
        twin.keys, twin.values = self.keys.fork(), self.values.fork()
        twin.ledger = None if self.ledger is None else self.ledger.clone()
        twin.columns = {name: column.clone() for name, column in self.columns.items()}
        twin._staged = (None, {})
        twin.index = self.index and self.index.fork()
        return twin

    def positions(self, ledger: Tensor) -> Tensor:
        return ledger if self.ledger is None else self.ledger

    def stored_bytes(self, slots: int) -> int:
        own = [t for t in (self.ledger, *self.columns.values()) if t is not None]
        index = self.index.nbytes if self.index else 0
        return self.keys.nbytes + self.values.nbytes + index + sum(t.nbytes for t in own)

    def full_read_bytes(self, slots: int) -> int:
        return self.keys.nbytes + self.values.nbytes

    def tensors(self) -> list[Tensor]:
        own = [t for t in (self.ledger, *self.columns.values()) if t is not None]
        index = self.index.tensors() if self.index else []
        return [*self.keys.tensors(), *self.values.tensors(), *own, *index]


def _find(ledger: Tensor, positions: Tensor) -> Tensor:
    """Which slots of `ledger [batch, heads, slots]` hold which `positions [batch, n]`: a bool, `n` last."""
    return ledger.unsqueeze(-1) == positions[:, None, None, :]
