"""One stream of a layer, its keys or its values: exact entries, and entries that a codec has sealed."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed
from kvlab.stores.buffer import Growing, gather_slots
from kvlab.stores.ragged import buffer_for


class GrowingStream:
    """Entries in order of arrival: `sink` exact ones, then sealed blocks, then the exact rest.

    With no codec everything stays in the exact rest.
    """

    def __init__(self, codec: Codec | None, growth: float = 2.0):
        self.codec = codec
        self.growth = growth
        self.first = Growing(growth)  # the codec's sink tokens
        self.sealed: dict[str, Any] = {}  # a buffer for each part: Growing, or GrowingRagged for streams
        self.sealed_slots = 0
        self.rest = Growing(growth)
        self.dtype = torch.float32  # of what was appended last
        # Exact first, sealed and exact rest before the step that is open; None: it has rewritten them.
        self._before: tuple[int, int, int] | None = None
        self._moved: Tensor | None = None  # what it has taken out of the exact rest before it

    @property
    def slots(self) -> int:
        return self.first.used + self.sealed_slots + self.rest.used

    def append(self, x: Tensor) -> None:
        """Add `x [batch, kv_heads, tokens, head_dim]`; it is exact until `seal`."""
        self.dtype = x.dtype
        self._before, self._moved = (self.first.used, self.sealed_slots, self.rest.used), None
        self.rest.append(x)

    def read(self) -> Tensor:
        """Every entry, decoded: `[batch, kv_heads, slots, head_dim]`. A view where nothing is sealed."""
        if not self.sealed_slots and not self.first.used:
            return self.rest.read()
        parts = [self.first.read()] if self.first.used else []
        if self.sealed_slots:
            parts.append(self.codec.decode(self.packed(), self.dtype))
        if self.rest.used:
            parts.append(self.rest.read())
        return torch.cat(parts, dim=2)

    def exact(self) -> Tensor | None:
        return None if self.sealed_slots or self.first.used else self.rest.read()

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """The entries at `rows [batch, kv_heads, n]`, decoded, and the bytes that this read.

        Only those entries are read where nothing is sealed or the codec works token by token; where
        tokens share a block, the whole stream is decoded first, and counted so. Rows in ascending order are
        cheapest: exact entries then lie at the ends, and are read for these columns only.
        """
        if not self.sealed_slots and not self.first.used:
            x = gather_slots(self.rest.read(), rows)
            return x, nbytes([x])
        if self.codec.block > 1 or not self.sealed_slots:
            return gather_slots(self.read(), rows), self.nbytes
        first, last = self.first.used, self.first.used + self.sealed_slots  # where the sealed ones lie
        old = (rows - first).clamp(0, self.sealed_slots - 1)
        packed = {name: gather_slots(part, old) for name, part in self.packed().items()}
        x, read = self.codec.decode(packed, self.dtype), nbytes(packed.values())
        for exact, there, start in ((self.first, rows < first, 0), (self.rest, rows >= last, last)):
            columns = there.flatten(0, 1).any(dim=0).nonzero()
            if exact.used and len(columns):
                some = slice(int(columns[0]), int(columns[-1]) + 1)
                own = gather_slots(exact.read(), (rows[..., some] - start).clamp(0, exact.used - 1))
                x[:, :, some] = torch.where(there[..., some].unsqueeze(-1), own, x[:, :, some])
                read += nbytes([own])
        return x, read

    def span(self, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop - 1`, decoded: of the sealed ones only the blocks that they lie in."""
        first, last = self.first.used, self.first.used + self.sealed_slots  # where the sealed ones lie
        parts = [self.first.read()[:, :, start:stop]] if start < first else []
        if self.codec is not None and max(start, first) < min(stop, last):
            begin, end, block = max(start, first) - first, min(stop, last) - first, self.codec.block
            skipped = begin // block
            blocks = -(-end // block) - skipped
            packed = {name: part.narrow(2, skipped, blocks) for name, part in self.packed().items()}
            x = self.codec.decode(packed, self.dtype)
            parts.append(x[:, :, begin - skipped * block : end - skipped * block])
        if stop > last:
            parts.append(self.rest.read()[:, :, max(start - last, 0) : stop - last])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def seal(self, positions: Tensor | None = None) -> None:
        """Encode the oldest exact entries, in whole blocks, down to the codec's residual.

        positions: `[batch, 1, slots]` of all entries, where some are padding: the first tokens of every row
        are then kept exact, and with them all that lies before the last of these.
        """
        if self.codec is None:
            return
        missing = min(self._sinks(positions) - self.first.used, self.rest.used)
        if missing > 0 and not self.sealed_slots:
            self.first.append(self._take(missing))
        due = (self.rest.used - self.codec.residual) // self.codec.block * self.codec.block
        if due > 0:
            packed = self.codec.encode(self.rest.read()[:, :, :due].contiguous())
            self._take(due)
            self._extend(packed, due)

    def _sinks(self, positions: Tensor | None) -> int:
        """How many slots in front hold the codec's sink tokens."""
        assert self.codec is not None
        if positions is None or not self.codec.sink or self.sealed_slots:
            return self.codec.sink
        sinks = ((positions >= 0) & (positions < self.codec.sink)).flatten(0, 1).any(dim=0).nonzero()
        return int(sinks[-1]) + 1 if len(sinks) else 0

    def _take(self, n: int) -> Tensor:
        """The oldest `n` of the exact rest, which leave it; those from before the step are remembered."""
        exact = self.rest.read()
        if self._before is not None:
            left = self._before[2] - (0 if self._moved is None else self._moved.shape[2])
            old = [] if self._moved is None else [self._moved]
            self._moved = torch.cat((*old, exact[:, :, : min(n, left)]), dim=2)
        self.rest.replace(exact[:, :, n:])
        return exact[:, :, :n]

    def commit(self) -> None:
        """The step is done: it will not be undone any more."""
        self._before = self._moved = None

    def undo(self, slots: int) -> None:
        """Forget an open step, before which there were `slots` entries, whatever it had sealed by now."""
        if self._before is None or self._moved is None:
            return self.crop(slots)
        first, sealed, rest = self._before
        self.first.crop(first)
        self._crop_sealed(sealed)
        stayed = self.rest.read()[:, :, : rest - self._moved.shape[2]]
        self.rest.replace(torch.cat((self._moved, stayed), dim=2))
        self._before = self._moved = None

    def _extend(self, packed: Packed, slots: int) -> None:
        for name, part in packed.items():
            self.sealed.setdefault(name, buffer_for(part, self.growth)).append(part)
        self.sealed_slots += slots

    def packed(self) -> Packed:
        """The sealed entries as their codec wrote them."""
        return {name: buffer.read() for name, buffer in self.sealed.items()}

    def keep(self, rows: Tensor) -> None:
        """Free every entry but those at `rows [batch, kv_heads, n]`, ascending.

        What a codec had sealed is moved as it is where it works token by token, and decoded and sealed
        again where tokens share a block (which rounds it twice).
        """
        codec = self.codec
        if codec is not None and codec.block == 1 and not codec.residual and not codec.sink:
            self.seal()
            for buffer in self.sealed.values():
                buffer.replace(gather_slots(buffer.read(), rows))
            self.sealed_slots, self._before = rows.shape[2], None
            return
        self._restart(gather_slots(self.read(), rows))
        self.seal()

    def crop(self, slots: int) -> None:
        """Forget all entries but the first `slots`. A block that is cut goes back to the exact rest."""
        if slots >= self.first.used + self.sealed_slots:
            self.rest.crop(slots - self.first.used - self.sealed_slots)
            return
        cut = (slots - self.first.used) % self.codec.block if slots > self.first.used else 0
        exact = self.read()[:, :, max(0, slots - cut) : slots].clone()
        self.first.crop(slots)
        self._crop_sealed(max(0, slots - cut - self.first.used))
        self.rest.replace(exact if exact.shape[2] else None)

    def _crop_sealed(self, slots: int) -> None:
        self.sealed_slots = slots
        for buffer in self.sealed.values():
            buffer.crop(slots // self.codec.block)

    def rewrite(self, x: Tensor) -> None:
        """Hold the entries `x [batch, kv_heads, slots, head_dim]` instead, sealed anew."""
        self._restart(x)
        self.seal()

    def _restart(self, exact: Tensor) -> None:
        self.first, self.sealed, self.sealed_slots = Growing(self.growth), {}, 0
        self.rest.replace(exact)
        self._before = self._moved = None

    def reorder(self, rows: Tensor) -> None:
        for buffer in self.buffers():
            if buffer.data is not None:
                buffer.replace(buffer.read().index_select(0, rows))

    def fork(self) -> GrowingStream:
        """A copy that shares no storage."""
        twin = copy.copy(self)
        twin.first, twin.rest = Growing(self.growth), Growing(self.growth)
        twin.sealed = {name: buffer.empty() for name, buffer in self.sealed.items()}
        for mine, other in zip(self.buffers(), twin.buffers(), strict=True):
            other.replace(None if mine.data is None else mine.read())
        return twin

    def buffers(self) -> list[Any]:
        return [self.first, *self.sealed.values(), self.rest]

    @property
    def nbytes(self) -> int:
        """Stored bytes: all that is needed to read the entries back."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def tensors(self) -> list[Tensor]:
        return [tensor for buffer in self.buffers() for tensor in buffer.tensors()]


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Sum of the bytes of `tensors` (any iterable)."""
    return sum(t.nbytes for t in tensors)
