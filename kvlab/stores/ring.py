"""A ring of slots: position p lies in slot p modulo size, so the newest token overwrites the oldest one.

What a ring holds follows from how many tokens each row has seen, so it needs no ledger of its own. A layer
with a window of w tokens needs the last w - 1 of them for the next token, and one free slot to take it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed
from kvlab.stores.base import FREE
from kvlab.stores.buffer import gather_slots
from kvlab.stores.stream import nbytes


@dataclass
class Turn:
    """What one step does to the rings of a cache, the same for all of them."""

    positions: Tensor  # [batch, 1, slots] of what its queries may read: `past` ring slots, then a chunk
    past: int  # ring slots to read; for a single token, which is written first, its own is among them
    filled: int  # ring slots in use once the step is done
    slot: Tensor | None = None  # [batch, 1] the free slot, which takes a single token
    source: Tensor | None = None  # [batch, filled] which token of a chunk a slot takes; FREE: it stays


def turn(seen: Tensor, positions: Tensor, size: int, window: int, used: int | None, padded: bool) -> Turn:
    """The turn of rings of `size` slots for new tokens at `positions [batch, tokens]`, FREE at padding.

    seen: `[batch]` tokens before them. used: columns before them, padding included; None: read the whole
    ring, whatever is in it (single tokens only). padded: whether any of `positions` may be FREE.
    """
    tokens = positions.shape[1]
    after = torch.maximum(seen, positions.amax(dim=-1) + 1)
    filled = size if used is None else min(used + tokens, size)
    if tokens == 1:
        visible = held(after, seen, filled, size, window)
        return Turn(visible.unsqueeze(1), filled, filled, slot=(seen % size).long().unsqueeze(1))
    past = min(used or 0, size)
    visible = torch.cat((held(seen, seen, past, size, window), positions), dim=1)
    newest = _newest(after, filled, size)  # [batch, filled]
    column = (newest - seen[:, None]).clamp(min=0).long()  # among the real tokens of the chunk
    if padded:
        column = torch.argsort((positions < 0).to(torch.int8), dim=1, stable=True).gather(1, column)
    return Turn(visible.unsqueeze(1), past, filled, source=column.masked_fill(newest < seen[:, None], FREE))


def _newest(after: Tensor, slots: int, size: int) -> Tensor:
    """The newest position below `after [batch]` for each slot, `[batch, slots]`; negative: none yet."""
    slot = torch.arange(slots, dtype=after.dtype, device=after.device)
    last = after[:, None] - 1
    return last - (last - slot) % size


def held(after: Tensor, seen: Tensor, slots: int, size: int, window: int) -> Tensor:
    """Positions below `after` that rings hold, `[batch, slots]`: those that token `seen` can look back to."""
    newest = _newest(after, slots, size)
    return newest.masked_fill((newest < 0) | (newest <= seen[:, None] - window), FREE)


class RingStream:
    """Keys, or values, in a ring that grows up to `size` slots, or that was allocated in full (`like`).

    A single token is written at once, into the free slot: nothing that is held is lost if the step fails.
    The part of a chunk that stays is set aside by `settle` and written by `commit`, when no layer can fail
    any more. Takes a codec that works token by token (`block == 1`, no residual, no sink).
    """

    def __init__(
        self, codec: Codec | None, dtype: torch.dtype, size: int, growth: float, like: Tensor | None = None
    ):
        self.codec, self.dtype, self.size, self.growth = codec, dtype, size, growth
        self.parts: Packed = {}  # name -> [batch, kv_heads, room, ...]
        self.slots = 0  # to read
        self.fresh: Tensor | None = None  # [batch, kv_heads, tokens, head_dim] new and exact
        self.turn: Turn | None = None  # while a step is open
        self._aside: Packed | None = None
        if like is not None:  # [batch, kv_heads, 1, head_dim]
            self._reserve(self._encode(like), size)

    def append(self, x: Tensor, turn: Turn) -> None:
        self.turn, self.slots = turn, turn.past
        self.fresh = x if self.codec is not None or turn.slot is None else None
        if turn.slot is not None:
            packed = self._encode(x)
            self._reserve(packed, turn.filled)
            for name, part in packed.items():
                self.parts[name].scatter_(2, _index(turn.slot, part), part)

    def read(self) -> Tensor:
        """All that the queries may read, `[batch, kv_heads, slots, head_dim]`; a view where it can be."""
        if self.fresh is None:
            return self._decode(self.packed())
        if self.turn is not None and self.turn.slot is not None:
            old = self._decode(self.packed())
            return old.scatter(2, _index(self.turn.slot, self.fresh), self.fresh)
        if not self.slots:
            return self.fresh
        return torch.cat((self._decode(self.packed()), self.fresh), dim=2)

    def exact(self) -> None:
        return None  # slots are in the order of the ring, and a chunk lies apart from them

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """The entries at `rows [batch, kv_heads, n]` of a step of one token, and the bytes that this read."""
        packed = {name: gather_slots(part, rows) for name, part in self.packed().items()}
        x, read = self._decode(packed), nbytes(packed.values())
        if self.fresh is not None and self.turn is not None and self.turn.slot is not None:
            hit = rows == self.turn.slot.unsqueeze(1)  # [batch, kv_heads, n]
            x, read = torch.where(hit.unsqueeze(-1), self.fresh, x), read + nbytes([self.fresh])
        return x, read

    def span(self, start: int, stop: int) -> Tensor:
        """The slots `start` to `stop - 1` in a step of one token, decoded; no others are."""
        x = self._decode({name: part[:, :, start:stop] for name, part in self.packed().items()})
        if self.fresh is None or self.turn is None or self.turn.slot is None:
            return x
        hit = torch.arange(start, stop, device=x.device) == self.turn.slot  # [batch, n]
        return torch.where(hit[:, None, :, None], self.fresh, x)

    def settle(self) -> None:
        """Set aside what stays of a chunk, as the codec writes it, and let the chunk go."""
        turn, chunk = self.turn, self.fresh
        self.fresh = None
        if turn is None or turn.source is None or chunk is None:
            self.turn = None
            return
        rows = turn.source.clamp(min=0).unsqueeze(1).expand(-1, chunk.shape[1], -1)
        self._aside = self._encode(gather_slots(chunk, rows))

    def commit(self) -> None:
        """Write what was set aside."""
        turn, aside = self.turn, self._aside
        self.turn = self._aside = None
        if turn is None:
            return
        self.slots = turn.filled
        if aside is not None and turn.source is not None:
            self._reserve(aside, turn.filled)
            stays = turn.source < 0  # [batch, filled]
            for name, part in aside.items():
                old = self.parts[name].narrow(2, 0, turn.filled)
                old.copy_(torch.where(stays.view(len(stays), 1, -1, *[1] * (part.dim() - 3)), old, part))

    def drop(self) -> None:
        """Forget an open step."""
        self.fresh = self.turn = self._aside = None

    def packed(self) -> Packed:
        """The slots in use as the codec wrote them."""
        return {name: part.narrow(2, 0, self.slots) for name, part in self.parts.items()}

    def _encode(self, x: Tensor) -> Packed:
        return {"exact": x} if self.codec is None else self.codec.encode(x)

    def _decode(self, packed: Packed) -> Tensor:
        return packed["exact"] if self.codec is None else self.codec.decode(packed, self.dtype)

    def _reserve(self, like: Packed, slots: int) -> None:
        """Make room for so many slots; new ones are zero, lest a masked one be NaN."""
        for name, part in like.items():
            old = self.parts.get(name)
            have = 0 if old is None else old.shape[2]
            if have >= slots:
                continue
            room = min(self.size, max(slots, int(have * self.growth)))
            self.parts[name] = part.new_zeros(*part.shape[:2], room, *part.shape[3:])
            if old is not None:
                self.parts[name].narrow(2, 0, have).copy_(old)

    def reorder(self, rows: Tensor, in_place: bool) -> None:
        for name, part in self.parts.items():
            chosen = part.index_select(0, rows)
            self.parts[name] = part.copy_(chosen) if in_place else chosen

    def fork(self) -> RingStream:
        """A copy that shares no storage."""
        twin = copy.copy(self)
        twin.parts = {name: part.clone() for name, part in self.parts.items()}
        return twin

    @property
    def nbytes(self) -> int:
        """What a read reads."""
        return nbytes(self.packed().values()) + (0 if self.fresh is None else nbytes([self.fresh]))

    def slot_bytes(self) -> int:
        """Bytes of one slot, over the batch and all heads."""
        return nbytes(part[:, :, 0] for part in self.parts.values())


def _index(slot: Tensor, x: Tensor) -> Tensor:
    """`slot [batch, 1]` for every head and number of `x [batch, kv_heads, 1, ...]`."""
    return slot.view(len(slot), *[1] * (x.dim() - 1)).expand_as(x)
