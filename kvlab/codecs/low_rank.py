"""Low rank: each head vector as a few coordinates in a basis that was learned from other text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, Stream, require_counts, require_finite
from kvlab.codecs.calibrate import Learned, entries

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

STREAMS: tuple[Stream, Stream] = ("keys", "values")


class Subspace(Codec):
    """`x ~ mean + basis @ code`, for one stream of one layer: `rank` float16 coordinates a vector.

    basis: orthonormal columns, float16 `[kv_heads, head_dim, rank]`; mean: float16 `[kv_heads, head_dim]`.
    All texts share them, and a cache counts them once.

    The error of a vector is what lies outside the basis, `|(I - B Bᵀ)(x - mean)|`, plus what float16 does to
    the coordinates, `2 ** -11 * |x - mean|`, and to the basis, about as much again.

    Raises:
        ValueError: shapes that do not fit; another number of heads or head_dim, NaN, infinite numbers, or
            coordinates above 65504 (`encode`).
    """

    payload = "code"

    def __init__(
        self, basis: Tensor, mean: Tensor, residual: int = 0, sink: int = 0, plain_keys: bool = True
    ):
        if basis.dim() != 3 or mean.shape != basis.shape[:2]:
            raise ValueError(
                "Subspace needs a basis [kv_heads, head_dim, rank] and a mean [kv_heads, head_dim], "
                f"not {list(basis.shape)} and {list(mean.shape)}."
            )
        require_counts("Subspace", residual=residual, sink=sink)
        self.basis, self.mean = basis.to(torch.float16), mean.to(torch.float16)
        require_finite("Subspace", self.basis, self.mean, largest="65504")
        self.residual, self.sink, self.plain_keys = residual, sink, plain_keys

    @property
    def rank(self) -> int:
        return self.basis.shape[-1]

    def refuse(self, config: Config) -> None:
        self._check(config.num_key_value_heads, config.head_dim)

    def _check(self, heads: int, dim: int) -> None:
        if (heads, dim) != self.basis.shape[:2]:
            raise ValueError(
                f"this basis was learned for {self.basis.shape[0]} heads of {self.basis.shape[1]} numbers, "
                f"not {heads} of {dim}; fit one on this model."
            )

    def encode(self, x: Tensor) -> Packed:
        """code: float16 `[batch, kv_heads, tokens, rank]`."""
        self._check(x.shape[1], x.shape[-1])
        code = ((x.float() - self.mean.float().unsqueeze(1)) @ self.basis.float()).to(torch.float16)
        require_finite("Subspace", code, largest="65504")
        return {"code": code}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        x = packed["code"].float() @ self.basis.float().transpose(-1, -2)
        return (x + self.mean.float().unsqueeze(1)).to(dtype)

    def shared_tensors(self) -> list[Tensor]:
        return [self.basis, self.mean]


class LowRank(Learned):
    """A `Subspace` for each layer and stream, as in Palu (Chang et al., 2024) with one head a group.

    Palu factorizes the weights of the projections; here the bases come from the SVD of keys and values that a
    calibration text gave, after their mean was taken off. Keys are taken before the rotary embedding: it
    turns each token's key by another angle, and spreads over many directions what lay in a few.

    Made of its codecs by (layer, stream); what is missing stays exact.
    """

    what = "basis"

    @classmethod
    def fit(
        cls,
        lm: Decoder,
        ids: Sequence[int],
        rank: int | None = None,
        energy: float | None = None,
        streams: Sequence[Stream] = STREAMS,
        residual: int = 0,
        sink: int = 4,
        rotated: bool = False,
    ) -> LowRank:
        """Learn the bases from the calibration text `ids`; see `learn`. rotated: keys as attention sees them.

        Raises:
            ValueError: no text; what `learn` refuses.
        """
        return cls.learn(entries(lm, ids, not rotated), rank, energy, streams, residual, sink, rotated)

    @classmethod
    def learn(
        cls,
        pairs: Sequence[tuple[Tensor, Tensor]],
        rank: int | None = None,
        energy: float | None = None,
        streams: Sequence[Stream] = STREAMS,
        residual: int = 0,
        sink: int = 4,
        rotated: bool = False,
    ) -> LowRank:
        """Bases from the keys and values of each layer, `[kv_heads, tokens, head_dim]` each.

        Their first `sink` tokens, which are unlike all others, are left out; in a cache they stay exact.
        rank: the same for all; or energy: in each layer the least rank with which every head keeps this share
        of its centred squares.

        Raises:
            ValueError: neither or both of rank and energy; a rank above head_dim, or above what the tokens
                span; an energy outside (0, 1].
        """
        _, tokens, dim = pairs[0][0].shape
        if (rank is None) == (energy is None):
            raise ValueError("low rank takes a rank or an energy: give one of them.")
        if rank is not None and not 1 <= rank <= dim:
            raise ValueError(f"rank is 1 to head_dim, {dim}, not {rank}.")
        if energy is not None and not 0 < energy <= 1:
            raise ValueError(f"energy is a share of the squares, above 0, at most 1: not {energy}.")
        if tokens - sink <= (rank or 1):
            raise ValueError(
                f"{tokens} tokens without {sink} sinks do not span rank {rank or 1}; give more text."
            )
        found = {}
        for layer, pair in enumerate(pairs):
            for stream, x in zip(STREAMS, pair, strict=True):
                if stream in streams:
                    mean, basis, shares = principal(x[:, sink:])
                    r = rank or rank_for(shares, energy or 1.0)
                    plain = stream == "keys" and not rotated
                    found[layer, stream] = Subspace(basis[..., :r], mean, residual, sink, plain)
        return cls(found)


def principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, directions and their shares of the energy of vectors `x [..., n, dim]`.

    Returns `[..., dim]`, `[..., dim, dim]` (columns, the strongest first) and `[..., dim]` (sum 1: squares
    after the mean was taken off; all 0 where every vector is the same).
    """
    x = x.float()
    mean = x.mean(-2)
    centred = x - mean.unsqueeze(-2)
    values, vectors = torch.linalg.eigh((centred.transpose(-1, -2) @ centred).double())
    squares = values.flip(-1).clamp(min=0)
    total = squares.sum(-1, keepdim=True)
    return mean, vectors.flip(-1).float(), (squares / total.clamp(min=1e-30)).float()


def rank_for(shares: Tensor, energy: float) -> int:
    """The least rank with which every head keeps `energy`; `shares [heads, dim]` as `principal` gives."""
    enough = shares.double().cumsum(-1) >= energy - 1e-6
    return int(torch.where(enough.any(-1), enough.int().argmax(-1) + 1, shares.shape[-1]).max())
