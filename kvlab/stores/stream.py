"""One stream of a layer, its keys or its values: exact entries, and entries that a codec has sealed."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed
from kvlab.stores.buffer import Fixed, Growing, gather_slots
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

    @property
    def slots(self) -> int:
        return self.first.used + self.sealed_slots + self.rest.used

    def append(self, x: Tensor) -> None:
        """Add `x [batch, kv_heads, tokens, head_dim]`; it is exact until `seal`."""
        self.dtype = x.dtype
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
        tokens share a block, the whole stream is decoded first, and counted so.
        """
        if not self.sealed_slots and not self.first.used:
            x = gather_slots(self.rest.read(), rows)
            return x, nbytes([x])
        if self.codec.block == 1 and not self.first.used:
            old = rows.clamp(max=self.sealed_slots - 1)
            packed = {name: gather_slots(part, old) for name, part in self.packed().items()}
            x, read = self.codec.decode(packed, self.dtype), nbytes(packed.values())
            if self.rest.used:
                new = gather_slots(self.rest.read(), (rows - self.sealed_slots).clamp(min=0))
                x, read = torch.where((rows < self.sealed_slots).unsqueeze(-1), x, new), read + nbytes([new])
            return x, read
        return gather_slots(self.read(), rows), self.nbytes

    def seal(self) -> None:
        """Encode the oldest exact entries, in whole blocks, down to the codec's residual."""
        if self.codec is None:
            return
        missing = min(self.codec.sink - self.first.used, self.rest.used)
        if missing > 0 and not self.sealed_slots:
            self.first.append(self.rest.read()[:, :, :missing])
            self.rest.replace(self.rest.read()[:, :, missing:])
        due = (self.rest.used - self.codec.residual) // self.codec.block * self.codec.block
        if due > 0:
            exact = self.rest.read()
            self._extend(self.codec.encode(exact[:, :, :due].contiguous()), due)
            self.rest.replace(exact[:, :, due:])

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
            self.sealed_slots = rows.shape[2]
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
        self.sealed_slots = max(0, slots - cut - self.first.used)
        for buffer in self.sealed.values():
            buffer.crop(self.sealed_slots // self.codec.block)
        self.rest.replace(exact if exact.shape[2] else None)

    def rewrite(self, x: Tensor) -> None:
        """Hold the entries `x [batch, kv_heads, slots, head_dim]` instead, sealed anew."""
        self._restart(x)
        self.seal()

    def _restart(self, exact: Tensor) -> None:
        self.first, self.sealed, self.sealed_slots = Growing(self.growth), {}, 0
        self.rest.replace(exact)

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


class FixedStream:
    """Entries at fixed slots in preallocated storage; every read covers the whole capacity.

    Takes a codec that works token by token (`block == 1`, no residual, no sink). A chunk is read exactly
    in the step that brings it, and through the codec ever after.
    """

    def __init__(self, codec: Codec | None, like: Tensor, capacity: int):
        self.codec = codec
        self.dtype = like.dtype
        parts = {"exact": like} if codec is None else codec.encode(like)
        self.parts = {name: Fixed(part, capacity) for name, part in parts.items()}
        self.fresh: tuple[Tensor, Tensor] | None = None

    def append(self, x: Tensor, slots: Tensor) -> None:
        if self.codec is None:
            self.parts["exact"].write(x, slots)
        else:
            self.fresh = (x, slots)

    def read(self) -> Tensor:
        if self.codec is None:
            return self.parts["exact"].read()
        x = self.codec.decode(self.packed(), self.dtype)
        return x if self.fresh is None else x.index_copy(2, self.fresh[1], self.fresh[0])

    def packed(self) -> Packed:
        return {name: part.read() for name, part in self.parts.items()}

    def exact(self) -> Tensor | None:
        return self.parts["exact"].read() if self.codec is None else None

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        if self.codec is None:
            x = gather_slots(self.parts["exact"].read(), rows)
            return x, nbytes([x])
        packed = {name: gather_slots(part, rows) for name, part in self.packed().items()}
        x, read = self.codec.decode(packed, self.dtype), nbytes(packed.values())
        if self.fresh is not None:
            chunk, slots = self.fresh  # x [batch, heads, n, dim]; is row r the i-th fresh slot?
            hit = rows.unsqueeze(-1) == slots  # [batch, heads, n, tokens]
            new = gather_slots(chunk, hit.long().argmax(-1))
            x, read = torch.where(hit.any(-1, keepdim=True), new, x), read + nbytes([new])
        return x, read

    def seal(self) -> None:
        if self.fresh is None:
            return
        x, slots = self.fresh
        for name, part in self.codec.encode(x).items():
            self.parts[name].write(part, slots)
        self.fresh = None

    def reorder(self, rows: Tensor) -> None:
        for part in self.parts.values():
            part.data.copy_(part.data.index_select(0, rows))

    def fork(self) -> FixedStream:
        twin = copy.copy(self)
        twin.parts = {name: copy.copy(part) for name, part in self.parts.items()}
        for part in twin.parts.values():
            part.data = part.data.clone()
        return twin

    @property
    def nbytes(self) -> int:
        """What a read reads: the whole capacity, and the chunk that is still exact."""
        return nbytes(self.tensors()) + (0 if self.fresh is None else nbytes([self.fresh[0]]))

    def slot_bytes(self) -> int:
        return sum(part.slot_bytes() for part in self.parts.values())

    def tensors(self) -> list[Tensor]:
        return [part.data for part in self.parts.values()]


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Sum of the bytes of `tensors` (any iterable)."""
    return sum(t.numel() * t.element_size() for t in tensors)
