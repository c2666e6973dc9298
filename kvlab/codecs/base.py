"""The codec knob: in how many bits is one entry written?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

Stream = Literal["keys", "values"]
Packed = dict[str, Tensor]  # name -> [batch, kv_heads, blocks, ...]: axis 2 counts blocks of tokens


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
    plain_keys: bool = False  # wants keys before rotation; they are then rotated when read

    def at(self, layer: int, stream: Stream) -> Codec | None:
        """The codec of one stream of one layer; None: it stays exact."""
        return self

    @abstractmethod
    def encode(self, x: Tensor) -> Packed:
        """Pack `x [batch, kv_heads, tokens, head_dim]`, where `tokens` is a multiple of `block`."""

    @abstractmethod
    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Unpack to `[batch, kv_heads, blocks * block, head_dim]` in `dtype`."""

    def shared_tensors(self) -> list[Tensor]:
        """What all entries share and reading needs (codebooks, bases); counted once in a cache's bytes."""
        return []
