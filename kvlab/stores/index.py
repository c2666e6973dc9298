"""What a selection remembers of a layer's entries, and how it follows them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from kvlab.selection.base import Selection
from kvlab.stores.buffer import Growing, gather_slots


class Index:
    """Summaries of whole pages of slots, in slot order, beside the keys and values of one layer.

    Slots behind the last whole page have no summary: a selection reads them always. A page that is cut by
    a crop loses its summary, and gets a new one when it is whole again.
    """

    def __init__(self, selection: Selection):
        self.selection, self.page = selection, selection.page
        self.items: dict[str, Growing] = {}  # name -> [batch, kv_heads, pages, ...]
        self.constants: dict[str, Tensor] = {}  # name -> [batch, kv_heads, ...]
        self.pages = 0  # summarised
        self.slots = 0  # in use, those of the last page that is not whole included
        self.device = torch.device("cpu")

    @property
    def covered(self) -> int:
        """Slots that have a summary."""
        return self.pages * self.page

    def __getitem__(self, name: str) -> Tensor:
        return self.items[name].read()

    def update(self, keys: Tensor, positions: Tensor, slots: int) -> None:
        """Summarise the pages that have become whole.

        keys: `[batch, kv_heads, n, head_dim]`, those of the slots from `covered` on (more than needed is
        fine); positions: `[batch, 1 or kv_heads, n]` of them; slots: how many are in use.
        """
        self.slots = slots
        self.device = keys.device
        new = slots // self.page - self.pages
        if new <= 0:
            return
        keys, real = keys[:, :, : new * self.page], positions[:, :, : new * self.page] >= 0
        if not self.pages:
            self.constants = self.selection.constants(keys, real)
        for name, part in self.selection.summarise(keys, real, self.constants).items():
            self.items.setdefault(name, Growing()).append(part)
        self.pages += new

    def newest(self) -> Tensor:
        """Slots in use that have no summary, `[1, 1, n]`."""
        return torch.arange(self.covered, self.slots, device=self.device).view(1, 1, -1)

    def crop(self, slots: int) -> None:
        self.slots = min(self.slots, slots)
        self.pages = min(self.pages, self.slots // self.page)
        for item in self.items.values():
            item.crop(self.pages)
        if not self.pages:
            self.constants = {}  # the next entries are the first again

    def keep(self, rows: Tensor) -> None:
        """The entries at `rows [batch, kv_heads, n]` stay. Pages are then others: they are made anew."""
        self.slots = rows.shape[2]
        if self.page > 1 or not self.slots or self.pages < int(rows.max()) + 1:
            self.items, self.constants, self.pages = {}, {}, 0
            return
        for item in self.items.values():
            item.replace(gather_slots(item.read(), rows))
        self.pages = self.slots

    def reorder(self, rows: Tensor) -> None:
        for item in self.items.values():
            item.replace(item.read().index_select(0, rows))
        self.constants = {name: x.index_select(0, rows) for name, x in self.constants.items()}

    def fork(self) -> Index:
        """A copy that shares no storage."""
        twin = copy.copy(self)
        twin.items = {name: Growing() for name in self.items}
        for name, item in self.items.items():
            twin.items[name].replace(item.read())
        twin.constants = {name: x.clone() for name, x in self.constants.items()}
        return twin

    @property
    def nbytes(self) -> int:
        own = sum(x.nbytes for x in self.constants.values())
        return own + sum(item.nbytes for item in self.items.values())

    def tensors(self) -> list[Tensor]:
        return [*self.constants.values(), *(i.data for i in self.items.values() if i.data is not None)]


def index_of(selection: Selection | None) -> Index | None:
    """An empty index, where the selection needs one."""
    return Index(selection) if selection is not None and selection.page else None
