"""Compressed sparse rows: beside every number that stays, the column where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Packed
from kvlab.codecs.sparse import Mustafar, _halves, largest

if TYPE_CHECKING:
    from kvlab.model.config import Config


@dataclass(eq=False)
class CSR(Mustafar):
    """The same numbers as `Mustafar` keeps, in the textbook's format for sparse matrices.

    A byte beside each number names its column, so a head has 256 numbers at most; CSR's row pointers are not
    needed, because every row has equally many. A vector costs `3 * kept` bytes. That is less than a bitmap's
    `head_dim / 8 + 2 * kept` only where less than one number in eight stays. Parameters, errors and error
    bound are those of `Mustafar`.
    """

    def refuse(self, config: Config) -> None:
        self._check(config.head_dim)

    def _check(self, dim: int) -> None:
        if dim > 256:
            raise ValueError(f"a byte names 256 columns, fewer than head_dim {dim}; use Mustafar.")

    def encode(self, x: Tensor) -> Packed:
        """value: float16, column: uint8, each `[batch, kv_heads, tokens, kept]`, and the vector's size as
        the shape of a tensor that holds nothing."""
        self._check(x.shape[-1])
        index = largest(x, self.kept(x.shape[-1]))
        value = _halves(x.gather(-1, index), type(self).__name__)
        like = torch.empty(*x.shape, 0, dtype=torch.uint8, device=x.device)
        return {"value": value, "column": index.to(torch.uint8), "like": like}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        value = packed["value"].to(dtype)
        x = value.new_zeros(packed["like"].shape[:-1])
        return x.scatter_(-1, packed["column"].long(), value)
