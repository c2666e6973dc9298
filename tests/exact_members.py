"""Throwaway members of each knob that lose nothing, yet take every path a lossy one would take."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.codecs import Codec, Packed
from kvlab.eviction import Columns, Eviction
from kvlab.selection import ByHead, LocalWindow, Pick, Quest, Selection, SimHash, Strided
from kvlab.selection.quest import bounds


class ExactBlocks(Codec):
    """Blocks of tokens between exact first and newest ones, bit for bit what they were."""

    exact = True

    def __init__(self, block: int = 4, residual: int = 3, sink: int = 2, plain_keys: bool = False):
        self.block, self.residual, self.sink, self.plain_keys = block, residual, sink, plain_keys

    def encode(self, x: Tensor) -> Packed:
        batch, heads, tokens, dim = x.shape
        assert tokens and tokens % self.block == 0, f"{tokens} tokens are no blocks of {self.block}"
        flat = x.reshape(batch, heads, tokens // self.block, self.block * dim)
        half = flat.shape[-1] // 2
        return {"left": flat[..., :half].clone(), "right": flat[..., half:].clone()}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        flat = torch.cat((packed["left"], packed["right"]), dim=-1).to(dtype)
        batch, heads, blocks, size = flat.shape
        return flat.reshape(batch, heads, blocks * self.block, size // self.block)


class KeepAll(Eviction):
    """Evicts nothing, by naming every slot: the layer gets a ledger, and columns, of its own."""

    def __init__(self, needs: str = "nothing", plain_keys: bool = False):
        self.needs, self.plain_keys = needs, plain_keys

    def columns(self) -> dict[str, float]:
        return {"received": 0.0, "arrived": 1.0}

    def observe(self, queries: Tensor, mass: Tensor | None, view, step, columns: Columns) -> None:
        shape = view.keys.read().shape[:3]
        assert all(column.shape == shape for column in columns.values()), "a column has lost its entries"
        if self.needs == "mass":
            columns["received"] += mass

    def keep(self, view, step, columns: Columns) -> Tensor:
        batch, heads, slots = columns["arrived"].shape
        return torch.arange(slots).expand(batch, heads, slots)


class DropPadding(Eviction):
    """Frees the slots that hold no token, and rows of one layer are then of different length."""

    def at(self, layer: int) -> Eviction | None:
        return self if layer % 2 == 0 else None

    def keep(self, view, step, columns: Columns) -> Tensor:
        real = view.positions >= 0  # [batch, 1 or kv_heads, slots]
        order = torch.argsort(real.to(torch.int8), dim=-1, descending=True, stable=True)
        rows = torch.where(real.gather(-1, order), order, -1)
        return rows[..., : int(real.sum(-1).max())]


class ReadAll(Selection):
    """Picks every slot, by name: all of them are gathered."""

    def choose(self, queries: Tensor, view, visible: Tensor, scale: float, step) -> Pick:
        slots, heads = view.positions.shape[-1], view.keys.read().shape[1]
        return Pick(torch.arange(slots).expand(queries.shape[0], heads, slots))


class AllPages(Quest):
    """Picks every page, by its number, after a look at the index: it must be what the keys say now."""

    def __init__(self, page_size: int = 3):
        super().__init__(page_size, pages=1, first=0)

    def choose(self, queries: Tensor, view, visible: Tensor, scale: float, step) -> Pick:
        index, keys = view.index, view.keys.read()
        assert index.slots - index.covered < self.page, "a whole page has no summary"
        if index.pages:
            loose = bounds(keys[:, :, : index.covered], view.positions[:, :, : index.covered] >= 0, self.page)
            low, high = index["bounds"].chunk(2, dim=-1)
            assert (low <= loose.chunk(2, dim=-1)[0]).all() and (high >= loose.chunk(2, dim=-1)[1]).all()
        pages = torch.arange(index.pages).expand(*keys.shape[:2], -1)
        return Pick(index.newest(), pages=pages, page=self.page)


class AllCodes(SimHash):
    """Picks every slot, after a look at the codes: there must be one for each, and it must be the key's."""

    def __init__(self):
        super().__init__(bits=8, k=1)

    def choose(self, queries: Tensor, view, visible: Tensor, scale: float, step) -> Pick:
        index, keys = view.index, view.keys.read()
        assert index.pages == index.slots
        again = self.summarise(keys[:, :, : index.slots], None, index.constants)["code"]
        assert torch.equal(again, index["code"])
        return Pick(torch.arange(index.slots).expand(*keys.shape[:2], -1))


class HalfAndHalf(Selection):
    """A pattern that allows everything for the first KV head, and nothing chosen for the others."""

    def runs(self, kv_heads: int):
        others = [*[None] * (kv_heads - 2), *[LocalWindow(99)] * (kv_heads > 1)]
        return ByHead([Strided(1), *others]).runs(kv_heads)

    def choose(self, *args):
        raise AssertionError("the runs choose")
