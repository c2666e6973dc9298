"""Magnitude pruning: a bitmap says where the numbers were, and only they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite

if TYPE_CHECKING:
    from kvlab.model.config import Config

BYTE = tuple(1 << i for i in range(8))


@dataclass(eq=False)
class Mustafar(Codec):
    """Of each token's head vector only the largest |x| stay; the others come back as zeros.

    Mustafar (Joo et al., 2025) prunes per token like this and stores tiles of 64 numbers: a bitmap of 8
    bytes, the packed float16 numbers, and 4 bytes that say where the tile's numbers begin. Here every vector
    keeps equally many, `round(keep * head_dim)`, so where they begin is known and those 4 bytes are not
    needed. A vector costs `head_dim / 8 + 2 * kept` bytes.

    keep: the share of the numbers that stays, above 0, at most 1. residual, sink: the newest and first
    tokens, which stay exact. plain_keys: keys are stored before the rotary embedding.

    The error of a number that was dropped is the number itself, at most the smallest |x| that stayed; of the
    others `2 ** -11 * |x|`, what float16 does (2 ** -25 below 6e-5).

    Raises:
        ValueError: parameters out of range; a head_dim that is no multiple of 8 (`refuse`); NaN, infinite
            numbers, or |x| above 65504 (`encode`).
    """

    keep: float = 0.5
    residual: int = 0
    sink: int = 0
    plain_keys: bool = False

    payload = "value"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(
                f"keep is the share of the numbers that stays, above 0, at most 1: not {self.keep}."
            )
        require_counts(type(self).__name__, residual=self.residual, sink=self.sink)

    def refuse(self, config: Config) -> None:
        self._check(config.head_dim)

    def _check(self, dim: int) -> None:
        if dim % 8:
            raise ValueError(f"a bitmap has 8 numbers a byte, which does not divide head_dim {dim}; use CSR.")

    def kept(self, dim: int) -> int:
        """How many numbers of a head vector stay."""
        return max(1, round(self.keep * dim))

    def encode(self, x: Tensor) -> Packed:
        """value: float16 `[batch, kv_heads, tokens, kept]`; bitmap: uint8 `[…, tokens, head_dim / 8]`."""
        self._check(x.shape[-1])
        index = largest(x, self.kept(x.shape[-1]))
        mask = torch.zeros_like(x, dtype=torch.uint8).scatter_(-1, index, 1)
        return {"value": _halves(x.gather(-1, index), type(self).__name__), "bitmap": pack_bits(mask)}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        mask = unpack_bits(packed["bitmap"])
        rank = mask.cumsum(-1, dtype=torch.int64) - 1  # place among the numbers that stayed
        return packed["value"].to(dtype).gather(-1, rank.clamp_(min=0)).masked_fill_(mask == 0, 0)


def largest(x: Tensor, k: int) -> Tensor:
    """Where the k largest |x| of the last axis are, ascending, int64 `[..., k]`."""
    return x.abs().topk(k, dim=-1).indices.sort(dim=-1).values


def pack_bits(mask: Tensor) -> Tensor:
    """0 or 1, uint8 `[..., n]` -> bytes `[..., n / 8]`; number i is bit i % 8 of byte i // 8."""
    weight = torch.tensor(BYTE, dtype=torch.uint8, device=mask.device)
    return (mask.unflatten(-1, (-1, 8)) * weight).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor) -> Tensor:
    """Bytes `[..., m]` -> 0 or 1, uint8 `[..., 8 * m]`."""
    shift = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed.unsqueeze(-1) >> shift & 1).flatten(-2)


def _halves(x: Tensor, name: str) -> Tensor:
    value = x.to(torch.float16)
    require_finite(name, value, largest="65504")
    return value
