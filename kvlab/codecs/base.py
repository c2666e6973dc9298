"""The codec knob: in how many bits is one entry written?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.model.config import Config

Stream = Literal["keys", "values"]
# name -> [batch, kv_heads, blocks, ...]: axis 2 counts blocks of tokens. A part whose blocks differ in length
# is a `kvlab.codecs.ragged.Ragged`, which has that axis, too.
Packed = dict[str, Any]


class Codec(ABC):
    """Writes entries of one stream (the keys, or the values) of a layer in fewer bits, and reads them back.

    A store seals the oldest entries that are complete blocks, keeps the newest `residual` ones and the
    first `sink` ones exact, and calls `encode` on nothing else. Every packed tensor has the layout
    `[batch, kv_heads, blocks, ...]`, so that a store can append, gather, crop and copy it unseen.
    """

    exact: bool = False  # decode(encode(x)) == x, bit for bit
    block: int = 1  # tokens that are encoded together
    residual: int = 0  # newest tokens that stay as they are
    sink: int = 0  # first tokens that stay as they are
    plain_keys: bool = False  # wants keys before the rotary embedding; they are then rotated when read
    payload: str | None = None  # the packed tensor that a codec chained behind this one encodes further
    payload_dtype: torch.dtype | None = None  # what it must come back as; None: as the entries

    def at(self, layer: int, stream: Stream) -> Codec | None:
        """The codec of one stream of one layer; None: it stays exact."""
        return self

    def refuse(self, config: Config) -> None:  # noqa: B027 (many codecs take any head)
        """Raise ValueError, in one clear sentence, where heads of this model cannot be encoded."""

    @abstractmethod
    def encode(self, x: Tensor) -> Packed:
        """Pack `x [batch, kv_heads, tokens, head_dim]`, where `tokens` is a multiple of `block`.

        Raises:
            ValueError: numbers that it cannot hold; which, its docstring says.
        """

    @abstractmethod
    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Unpack to `[batch, kv_heads, blocks * block, head_dim]` in `dtype`."""

    def shared_tensors(self) -> list[Tensor]:
        """What all entries share and reading needs (codebooks, bases); counted once in a cache's bytes."""
        return []


class Choice(Codec):
    """Not a way to write entries but a choice of one, by layer and stream: a subclass defines `at`."""

    @abstractmethod
    def at(self, layer: int, stream: Stream) -> Codec | None: ...

    def encode(self, x: Tensor) -> Packed:
        raise TypeError(f"{type(self).__name__} chooses codecs; ask its at(layer, stream) for one.")

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        raise TypeError(f"{type(self).__name__} chooses codecs; ask its at(layer, stream) for one.")


def beyond_single(codec: Codec) -> str | None:
    """What keeps a codec out of stores that write single slots, as the end of "it …"; None: nothing does."""
    if codec.block > 1:
        return f"encodes {codec.block} tokens together"
    if codec.residual:
        return f"keeps the newest {codec.residual} tokens exact"
    return f"keeps the first {codec.sink} tokens exact" if codec.sink else None


def require_counts(name: str, **counts: int) -> None:
    """Raise ValueError unless every count is an integer of at least 0."""
    for what, n in counts.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise ValueError(f"{name} counts {what} in tokens: give an integer from 0 up, not {n!r}.")


def require_finite(name: str, *tensors: Tensor, largest: str) -> None:
    """Raise ValueError if any number is NaN or infinite (compiled steps, which cannot look, do not)."""
    if torch.compiler.is_compiling():
        return
    if not all(bool(t.isfinite().all()) for t in tensors):
        raise ValueError(
            f"{name} cannot encode NaN, infinite or huge (above {largest}) numbers; find out where they "
            "come from."
        )
