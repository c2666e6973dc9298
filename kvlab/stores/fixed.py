"""One stream of a static layer: entries at fixed slots."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed
from kvlab.stores.buffer import Fixed, gather_slots
from kvlab.stores.stream import nbytes


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

    def span(self, start: int, stop: int) -> Tensor:
        """The slots `start` to `stop - 1` in a step of one token, decoded; no others are."""
        packed = {name: part.read()[:, :, start:stop] for name, part in self.parts.items()}
        if self.codec is None:
            return packed["exact"]
        x = self.codec.decode(packed, self.dtype)
        if self.fresh is None:
            return x
        hit = torch.arange(start, stop, device=x.device) == self.fresh[1]  # [n]
        return torch.where(hit[:, None], self.fresh[0], x)

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
