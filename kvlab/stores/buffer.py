"""Where the numbers lie: a tensor that grows along its slots, and one that never does."""

from __future__ import annotations

import torch
from torch import Tensor


class Growing:
    """Slots appended one chunk after the other, `[batch, kv_heads, slots, ...]`.

    Room is reserved `growth` times what is needed, so that most appends write in place and a decode of n
    tokens copies O(n) instead of O(n²) bytes. `growth=1` reserves nothing: every append then copies all
    that came before, as concatenation does.
    """

    def __init__(self, growth: float = 2.0):
        self.growth = growth
        self.data: Tensor | None = None
        self.used = 0

    def append(self, x: Tensor) -> None:
        end = self.used + x.shape[2]
        if self.data is None or end > self.data.shape[2]:
            # A first chunk is taken as it is; only a store that does grow needs room to grow into.
            room = end if self.data is None else max(end, int(self.used * self.growth))
            data = x.new_empty(*x.shape[:2], room, *x.shape[3:])
            if self.data is not None:
                data[:, :, : self.used] = self.read()
            self.data = data
        self.data.narrow(2, self.used, x.shape[2]).copy_(x)
        self.used = end

    def read(self) -> Tensor:
        assert self.data is not None
        return self.data.narrow(2, 0, self.used)

    def crop(self, slots: int) -> None:
        self.used = min(self.used, slots)

    def replace(self, x: Tensor | None) -> None:
        """Hold exactly `x`, in storage of its own."""
        self.data, self.used = (None, 0) if x is None else (x.clone(), x.shape[2])

    def empty(self) -> Growing:
        """Another one that holds nothing."""
        return Growing(self.growth)

    @property
    def nbytes(self) -> int:
        return 0 if self.data is None else self.read().numel() * self.data.element_size()

    def tensors(self) -> list[Tensor]:
        """All that it holds, slack included."""
        return [] if self.data is None else [self.data]


class Fixed:
    """All slots allocated at once and written in place, `[batch, kv_heads, capacity, ...]`.

    Reading gives the whole capacity: shapes never change, which is what compiled steps need. Slots that
    hold nothing are zero, and masked by the ledger.
    """

    def __init__(self, like: Tensor, capacity: int):
        batch, heads, _, *rest = like.shape
        self.data = like.new_zeros(batch, heads, capacity, *rest)

    def write(self, x: Tensor, slots: Tensor) -> None:
        self.data.index_copy_(2, slots, x)

    def read(self) -> Tensor:
        return self.data

    def slot_bytes(self) -> int:
        """Bytes of one slot, over the batch and all heads."""
        return self.data[:, :, 0].numel() * self.data.element_size()


def distinct_storage_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the storages behind `tensors`, each counted once, slack and unviewed parts included."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())


def gather_slots(x: Tensor, rows: Tensor) -> Tensor:
    """`x [batch, heads or 1, slots, ...]` at `rows [batch, heads, n]` -> `[batch, heads, n, ...]`."""
    x = x.expand(x.shape[0], rows.shape[1], *x.shape[2:])
    batch, heads = (torch.arange(n, device=x.device) for n in rows.shape[:2])
    return x[batch[:, None, None], heads[:, None], rows]  # copies a slot at a time, `gather` number by number


def gather_pages(x: Tensor, pages: Tensor | None, page: int, rows: Tensor) -> Tensor:
    """Whole pages of `page` slots, then single slots, of `x [batch, heads, slots, head_dim]`.

    pages: `[batch, heads, m]`; rows: `[batch, 1 or heads, n]`; returns `[batch, heads, m * page + n,
    head_dim]`. A page that lies in one piece is copied in one piece.
    """
    batch, heads, slots, dim = x.shape
    rows = rows.expand(batch, heads, -1)
    if pages is None or not pages.shape[-1]:
        return gather_slots(x, rows)
    whole = pages.shape[-1] * page
    out = x.new_empty(batch, heads, whole + rows.shape[-1], dim)
    for b in range(batch):
        for h in range(heads):
            lying = x[b, h, : slots // page * page].reshape(-1, page * dim)  # a view where slots are adjacent
            torch.index_select(lying, 0, pages[b, h], out=out[b, h, :whole].view(-1, page * dim))
    out[:, :, whole:] = gather_slots(x, rows)
    return out


def to_slots(positions: Tensor, heads: int) -> Tensor:
    """`positions [batch, tokens]` for every head, `[batch, heads, tokens]`."""
    return positions.unsqueeze(1).expand(-1, heads, -1)


def empty_like_slots(x: Tensor, fill: float, dtype: torch.dtype) -> Tensor:
    return torch.full(x.shape[:3], fill, dtype=dtype, device=x.device)
