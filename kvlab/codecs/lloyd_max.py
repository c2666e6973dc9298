"""The best codebook for normally distributed numbers, and TurboQuant, which makes any vector look so."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite
from kvlab.codecs.hadamard import rotation
from kvlab.codecs.packing import multiple, pack, unpack
from kvlab.codecs.quantize import TINY

if TYPE_CHECKING:
    from kvlab.model.config import Config


@functools.lru_cache(maxsize=8)
def lloyd_max(bits: int) -> tuple[float, ...]:
    """The 2 ** bits levels with the least mean squared error on a standard normal (Lloyd, 1982; Max, 1960).

    Two conditions hold at the best codebook, and are made true in turn until nothing moves: the border
    between two levels lies half-way, and a level is the mean of the numbers between its borders.
    """
    count = 2**bits
    x = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)  # even shares
    edge = torch.tensor([math.inf], dtype=torch.float64)
    for _ in range(10_000):
        borders = torch.cat((-edge, (x[1:] + x[:-1]) / 2, edge))
        density = torch.exp(-(borders**2) / 2) / math.sqrt(2 * math.pi)
        mean = (density[:-1] - density[1:]) / torch.special.ndtr(borders).diff()
        moved, x = (mean - x).abs().max(), mean
        if moved < 1e-12:
            break
    return tuple(x.tolist())


class TurboQuant(Codec):
    """Length apart, direction rotated, each coordinate to a fixed codebook (Zandieh et al., 2025).

    After a random rotation every coordinate of a unit vector is close to normal with variance 1 / head_dim,
    whatever the vector was. So one codebook, computed beforehand, serves all: no scale or minimum per
    group, only the length in float16. Costs `bits + 16 / head_dim` bits a number. This is the paper's
    variant for least squared error (it has another for unbiased products), with a Hadamard rotation.

    The mean of |error|² over |x|² is .1175, .0345, .0095 for 2, 3, 4 bits, where rotated coordinates are
    normal; and |error| is never above `sqrt(1 + h²) |x|`, with h half of the codebook's widest gap, plus
    what float16 does to the length: relative 2 ** -11, absolute 2 ** -25.

    Raises:
        ValueError: other bits, a head_dim that is no power of two; NaN, infinite numbers, or vectors longer
            than 65504 (`encode`).
    """

    payload = "code"
    payload_dtype = torch.uint8

    def __init__(self, bits: int = 4, residual: int = 0, sink: int = 0, seed: int = 0):
        if bits not in (1, 2, 3, 4):
            raise ValueError(f"TurboQuant has codebooks of 1 to 4 bits, not {bits!r}.")
        require_counts("TurboQuant", residual=residual, sink=sink)
        self.bits, self.residual, self.sink, self.seed = bits, residual, sink, seed
        self.levels = torch.tensor(lloyd_max(bits))  # [2 ** bits], for variance 1
        self.matrix: Tensor | None = None

    def refuse(self, config: Config) -> None:
        self._check(config.head_dim)

    def _check(self, dim: int) -> None:
        rotation(dim, self.seed, torch.device("cpu"))
        if dim % multiple(self.bits):
            raise ValueError(
                f"{multiple(self.bits)} codes of {self.bits} bits fill whole bytes, which does not divide "
                f"head_dim {dim}; choose other bits."
            )

    def encode(self, x: Tensor) -> Packed:
        dim = x.shape[-1]
        self._check(dim)
        self.matrix, self.levels = rotation(dim, self.seed, x.device), self.levels.to(x.device)
        length = x.float().norm(dim=-1, keepdim=True).to(torch.float16)  # [batch, kv_heads, tokens, 1]
        require_finite("TurboQuant", length, largest="65504 long")
        direction = x.float() / length.float().clamp(min=TINY) @ self.matrix
        borders = (self.levels[1:] + self.levels[:-1]) / 2
        code = torch.bucketize(direction * math.sqrt(dim), borders).to(torch.uint8)
        return {"code": pack(code, self.bits), "length": length}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        direction = self.levels[unpack(packed["code"], self.bits).int()]
        dim = direction.shape[-1]
        scaled = direction * (packed["length"].float() / math.sqrt(dim))
        return (scaled @ rotation(dim, self.seed, scaled.device).T).to(dtype)

    def shared_tensors(self) -> list[Tensor]:
        return [self.levels, *([] if self.matrix is None else [self.matrix])]

    def __repr__(self) -> str:
        return f"TurboQuant(bits={self.bits}, residual={self.residual}, sink={self.sink})"
