"""Rotate the head vectors, so that no channel is larger than the others, and encode that."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, Stream

if TYPE_CHECKING:
    from kvlab.model.config import Config


@functools.lru_cache(maxsize=16)
def rotation(dim: int, seed: int, device: torch.device) -> Tensor:
    """A randomized Hadamard matrix, `[dim, dim]` float32: `x @ rotation` rotates, `y @ rotation.T` back.

    Row i is a random sign times row i of the Hadamard matrix over sqrt(dim): every number of a rotated
    vector is a sum of all the old ones with signs, so one large number is spread over all of them.

    Raises:
        ValueError: `dim` is no power of two.
    """
    if dim < 1 or dim & (dim - 1):
        raise ValueError(f"a Hadamard rotation needs a power of two as head_dim, not {dim}.")
    h = torch.ones(1, 1)
    while len(h) < dim:  # Sylvester's construction
        h = torch.cat((torch.cat((h, h), dim=1), torch.cat((h, -h), dim=1)))
    signs = torch.randint(0, 2, (dim, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (signs * h / math.sqrt(dim)).to(device)


class Hadamard(Codec):
    """A randomized Hadamard rotation of each head vector, then `codec` (QuaRot, Ashkboos et al., 2024).

    Lengths and scalar products survive a rotation, so the error of a whole vector is that of `codec` on the
    rotated one; single numbers may be off by more. Decoding rotates back. (QuaRot rotates the query
    instead, and the weights behind the values.) The matrix is stored once for all layers.

    Raises:
        ValueError: a head_dim that is no power of two, or what `codec` raises.
    """

    def __init__(self, codec: Codec, seed: int = 0):
        self.codec, self.seed = codec, seed
        self.block, self.residual, self.sink = codec.block, codec.residual, codec.sink
        self.plain_keys, self.payload, self.payload_dtype = (
            codec.plain_keys, codec.payload, codec.payload_dtype,
        )  # fmt: skip
        self.matrix: Tensor | None = None

    def at(self, layer: int, stream: Stream) -> Codec | None:
        codec = self.codec.at(layer, stream)
        return self if codec is self.codec else codec and Hadamard(codec, self.seed)

    def refuse(self, config: Config) -> None:
        rotation(config.head_dim, self.seed, torch.device("cpu"))
        self.codec.refuse(config)

    def encode(self, x: Tensor) -> Packed:
        self.matrix = rotation(x.shape[-1], self.seed, x.device)
        return self.codec.encode(x.float() @ self.matrix)

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        x = self.codec.decode(packed, torch.float32)
        return (x @ rotation(x.shape[-1], self.seed, x.device).T).to(dtype)

    def shared_tensors(self) -> list[Tensor]:
        return [*([] if self.matrix is None else [self.matrix]), *self.codec.shared_tensors()]

    def __repr__(self) -> str:
        return f"Hadamard({self.codec!r})"
