"""One codec behind another: the numbers that the first leaves are what the second encodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Choice, Codec, Packed, Stream

if TYPE_CHECKING:
    from kvlab.model.config import Config


class Chain(Codec):
    """`first`, then `second` on its payload: low rank, then 4 bits, then Huffman is two chains.

    The payload is the packed tensor that `first` names as such, `[batch, kv_heads, blocks, ...]`:
    coefficients, or codes. The rest of what `first` packs (scales, minima) stays as it is. A block of the
    chain has as many tokens as a block of `second` has blocks of `first`. Residual and sink are the larger
    of the two.

    Raises:
        ValueError: `first` names no payload; what the parts raise (what does not fit the width of a payload
            shows at the first step, which is then undone).
    """

    def __init__(self, first: Codec, second: Codec):
        if first.payload is None and not isinstance(first, Choice):
            raise ValueError(
                f"{type(first).__name__} leaves nothing that a second codec could encode; put it last."
            )
        self.first, self.second = first, second
        self.exact = first.exact and second.exact
        self.block = first.block * second.block
        self.residual, self.sink = max(first.residual, second.residual), max(first.sink, second.sink)
        self.plain_keys = first.plain_keys or second.plain_keys
        self.payload, self.payload_dtype = None, second.payload_dtype
        if second.payload is not None:
            self.payload = f"{first.payload}.{second.payload}"

    def at(self, layer: int, stream: Stream) -> Codec | None:
        first, second = self.first.at(layer, stream), self.second.at(layer, stream)
        if first is None or second is None:
            return first or second
        return self if (first, second) == (self.first, self.second) else Chain(first, second)

    def refuse(self, config: Config) -> None:
        self.first.refuse(config)

    def encode(self, x: Tensor) -> Packed:
        packed = self.first.encode(x)
        inner = self.second.encode(packed.pop(self.first.payload or ""))
        if self.second.block > 1:  # axis 2 counts the blocks of the chain in every part
            packed = {name: part.unflatten(2, (-1, self.second.block)) for name, part in packed.items()}
        return packed | {f"{self.first.payload}.{name}": part for name, part in inner.items()}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        start = f"{self.first.payload}."
        inner = {name.removeprefix(start): part for name, part in packed.items() if name.startswith(start)}
        rest = {name: part for name, part in packed.items() if not name.startswith(start)}
        if self.second.block > 1:
            rest = {name: part.flatten(2, 3) for name, part in rest.items()}
        payload = self.second.decode(inner, self.first.payload_dtype or dtype)
        return self.first.decode(rest | {self.first.payload or "": payload}, dtype)

    def shared_tensors(self) -> list[Tensor]:
        return [*self.first.shared_tensors(), *self.second.shared_tensors()]

    def __repr__(self) -> str:
        return f"Chain({self.first!r}, {self.second!r})"
