"""Low rank with a basis of the text's own: nothing to learn beforehand, and a basis in every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite
from kvlab.codecs.low_rank import principal

if TYPE_CHECKING:
    from kvlab.model.config import Config


@dataclass(eq=False)
class OwnBasis(Codec):
    """The singular value decomposition of each block of `tokens` vectors, cut at `rank`.

    For these very vectors no basis of this rank is better (Eckart & Young, 1936), but it is stored with them:
    a block of a head costs `2 * (tokens * rank + head_dim * (rank + 1))` bytes. Keys are taken before
    rotation.

    The squared error of a block is the sum of the squares that the left out directions hold, plus what
    float16 does to coordinates, basis and mean: about `2 ** -10` of the block's norm.

    Raises:
        ValueError: parameters out of range; a rank above head_dim (`refuse`, or `encode`); NaN, infinite
            numbers, or |x| above 65504 (`encode`).
    """

    rank: int = 16
    tokens: int = 256
    residual: int = 0
    sink: int = 4
    plain_keys: bool = True

    payload = "code"

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank is 1 or more, not {self.rank!r}.")
        if not isinstance(self.tokens, int) or self.tokens <= self.rank:
            raise ValueError(
                f"{self.tokens!r} tokens have rank {self.rank} at most and save nothing; take larger blocks."
            )
        require_counts("OwnBasis", residual=self.residual, sink=self.sink)
        self.block = self.tokens

    def refuse(self, config: Config) -> None:
        self._check(config.head_dim)

    def _check(self, dim: int) -> None:
        if self.rank > dim:
            raise ValueError(f"rank is 1 to head_dim, {dim}, not {self.rank}.")

    def encode(self, x: Tensor) -> Packed:
        """All float16: code `[batch, kv_heads, blocks, tokens, rank]`, basis `[…, blocks, head_dim, rank]`,
        mean `[…, blocks, head_dim]`."""
        self._check(x.shape[-1])
        groups = x.float().unflatten(2, (-1, self.block))
        require_finite("OwnBasis", groups.to(torch.float16), largest="65504")
        mean, vectors, _ = principal(groups)
        mean, basis = mean.to(torch.float16), vectors[..., : self.rank].to(torch.float16)
        code = ((groups - mean.float().unsqueeze(-2)) @ basis.float()).to(torch.float16)
        require_finite("OwnBasis", code, largest="65504")
        return {"code": code, "basis": basis, "mean": mean}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        x = packed["code"].float() @ packed["basis"].float().transpose(-1, -2)
        return (x + packed["mean"].float().unsqueeze(-2)).flatten(2, 3).to(dtype)
