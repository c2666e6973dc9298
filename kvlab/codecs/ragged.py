"""Byte streams of different lengths, one for each (sequence, head, block): what entropy coders write."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 2**31 - 1  # an end is an int32


@dataclass
class Ragged:
    """Streams one behind the other, and where each of them ends.

    data: uint8 `[1, 1, bytes]`; ends: int32 `[batch, kv_heads, blocks]`. The order in `data` is by block,
    then by sequence, then by head: new blocks come last, so appending and cropping move nothing. A stream
    begins where the one before it in this order ends, so four bytes a stream give random access.
    """

    data: Tensor
    ends: Tensor

    @classmethod
    def pack(cls, data: Tensor, lengths: Tensor) -> Ragged:
        """From `data` uint8 `[bytes]` in that order, and the streams' `lengths [batch, kv_heads, blocks]`.

        Raises:
            ValueError: more bytes than an int32 can count.
        """
        total = lengths.permute(2, 0, 1).reshape(-1).cumsum(0)
        if len(total) and int(total[-1]) > LIMIT:
            raise ValueError(
                f"{int(total[-1]):,} bytes of streams in one layer: ends are int32, 2 GiB at most."
            )
        batch, heads, blocks = lengths.shape
        ends = total.reshape(blocks, batch, heads).permute(1, 2, 0).to(torch.int32).contiguous()
        return cls(data.view(1, 1, -1), ends)

    @property
    def shape(self) -> torch.Size:
        """`[batch, kv_heads, blocks]`."""
        return self.ends.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the streams and of their ends."""
        return self.data.numel() + self.ends.nbytes

    def spans(self) -> tuple[Tensor, Tensor]:
        """Start and end of every stream in `data`, int64 `[batch, kv_heads, blocks]`."""
        batch, heads, blocks = self.shape
        end = self.ends.permute(2, 0, 1).reshape(-1).long()
        start = torch.cat((end.new_zeros(1), end[:-1])) if len(end) else end
        start, end = (t.reshape(blocks, batch, heads).permute(1, 2, 0) for t in (start, end))
        return start, end

    def take(self, start: Tensor, end: Tensor) -> Ragged:
        """The streams at these spans, each `[batch, kv_heads, blocks]`, copied into storage of their own."""
        length = end - start
        flat, begin = (t.permute(2, 0, 1).reshape(-1) for t in (length, start))
        first = flat.cumsum(0) - flat  # where each stream goes
        source = torch.repeat_interleave(begin - first, flat) + torch.arange(
            int(flat.sum()), device=flat.device
        )
        return Ragged.pack(self.data.flatten()[source], length)

    def index_select(self, axis: int, index: Tensor) -> Ragged:
        """Some sequences (axis 0), heads (1) or blocks (2), in any order: nothing else is read."""
        return self.take(*(t.index_select(axis, index) for t in self.spans()))

    def narrow(self, axis: int, start: int, length: int) -> Ragged:
        """A run of sequences, heads or blocks, as `Tensor.narrow` gives it."""
        return self.index_select(axis, torch.arange(start, start + length, device=self.ends.device))
