"""SimHash: near vectors fall into one bucket. Not a codec: it shows whether entries repeat each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def signatures(x: Tensor, bits: int = 16, seed: int = 0) -> Tensor:
    """On which side of `bits` random planes through zero each vector lies (Charikar, 2002).

    `x [..., n, dim]` -> int64 `[..., n]`. Two vectors at an angle a agree in a bit with probability 1 - a/π.

    Raises:
        ValueError: bits outside 1 … 62.
    """
    if not 1 <= bits <= 62:
        raise ValueError(f"a signature has 1 to 62 bits, not {bits}.")
    planes = torch.randn(x.shape[-1], bits, generator=torch.Generator().manual_seed(seed))
    side = x.float() @ planes.to(x.device) > 0  # [..., n, bits]
    return (side.long() << torch.arange(bits, device=x.device)).sum(-1)


def largest_bucket(signature: Tensor) -> float:
    """The share of vectors in the fullest bucket, over `signature [..., n]`: the mean of all leading axes."""
    rows = signature.reshape(-1, signature.shape[-1])
    return sum(int(row.unique(return_counts=True)[1].max()) for row in rows) / rows.numel()


def buckets(signature: Tensor) -> float:
    """Buckets for each vector, over `signature [..., n]`: 1 where every vector is alone."""
    rows = signature.reshape(-1, signature.shape[-1])
    return sum(len(row.unique()) for row in rows) / rows.numel()


def near_duplicates(x: Tensor, cosine: float = 0.9) -> float:
    """The share of vectors `x [..., n, dim]` with another one of their n above this cosine."""
    unit = F.normalize(x.float(), dim=-1)
    near = unit @ unit.transpose(-1, -2)
    near.diagonal(dim1=-2, dim2=-1).fill_(-1)
    return float((near.amax(-1) > cosine).float().mean())
