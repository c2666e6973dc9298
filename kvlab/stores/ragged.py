"""A buffer for streams of different lengths."""

from __future__ import annotations

from torch import Tensor

from kvlab.codecs.ragged import LIMIT, Ragged
from kvlab.stores.buffer import Growing


class GrowingRagged:
    """A `Growing` for streams: the same calls, blocks instead of slots."""

    def __init__(self, growth: float = 2.0):
        self.growth = growth
        self.bytes, self.ends = Growing(growth), Growing(growth)

    @property
    def used(self) -> int:
        return self.ends.used

    @property
    def data(self) -> Tensor | None:
        """None: nothing was ever written."""
        return self.ends.data

    def append(self, x: Ragged) -> None:
        if self.bytes.used + x.data.numel() > LIMIT:
            raise ValueError("more than 2 GiB of streams in one layer: their ends are int32.")
        ends = x.ends + self.bytes.used
        self.bytes.append(x.data)
        self.ends.append(ends)

    def read(self) -> Ragged:
        return Ragged(self.bytes.read(), self.ends.read())

    def crop(self, blocks: int) -> None:
        """Keep the first `blocks` of every sequence and head."""
        if blocks < self.used:
            self.ends.crop(blocks)
            self.bytes.crop(int(self.ends.read()[-1, -1, -1]) if blocks else 0)

    def replace(self, x: Ragged | None) -> None:
        """Hold exactly `x`, in storage of its own."""
        self.bytes.replace(None if x is None else x.data)
        self.ends.replace(None if x is None else x.ends)

    def empty(self) -> GrowingRagged:
        return GrowingRagged(self.growth)

    @property
    def nbytes(self) -> int:
        return self.bytes.nbytes + self.ends.nbytes

    def tensors(self) -> list[Tensor]:
        return [*self.bytes.tensors(), *self.ends.tensors()]


def buffer_for(part: Tensor | Ragged, growth: float) -> Growing | GrowingRagged:
    """An empty buffer for what a codec has written."""
    return GrowingRagged(growth) if isinstance(part, Ragged) else Growing(growth)
