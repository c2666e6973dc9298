"""Keys that fall into the same bucket become one entry, wherever they stand in the text."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.eviction.merging import Merging
from kvlab.stores.buffer import gather_slots


class LSHMerge(Merging):
    """Entries whose keys hash alike are merged, until `budget` entries are left.

    SimHash ("Similarity Estimation Techniques from Rounding Algorithms", Charikar, 2002): `bits` random
    planes through the middle of a head's keys, one bit for the side of each, so that a small angle means
    few different bits. Sorted by these bits, keys that share a long beginning lie side by side, as in an
    LSH forest (Bawa et al., 2005); the line is cut where the shared beginnings are shortest.

    Raises:
        ValueError: as in `Merging`, and if `bits` is not between 1 and 52.
    """

    def __init__(
        self,
        budget: int,
        sinks: int = 4,
        recent: int = 32,
        bits: int = 24,
        counted: bool = True,
        seed: int = 0,
    ):
        super().__init__(budget, sinks, recent, counted)
        if not 1 <= bits <= 52:
            raise ValueError(f"LSHMerge sorts by 1 to 52 bits, not {bits}.")
        self.bits, self.seed = bits, seed

    def line(self, keys: Tensor, loose: Tensor) -> tuple[Tensor, Tensor]:
        codes = simhash(keys, loose, self.bits, self.seed)  # [batch, kv_heads, slots]
        order = codes.masked_fill(~loose, 1 << self.bits).argsort(dim=-1, stable=True)
        along = gather_slots(codes, order)
        return order, -(along[..., 1:] ^ along[..., :-1]).double()  # the first bit that differs weighs most


def simhash(x: Tensor, some: Tensor, bits: int, seed: int = 0) -> Tensor:
    """`bits` side-of-a-plane bits of each vector as one integer, `[batch, kv_heads, slots]`.

    x: `[batch, kv_heads, slots, dim]`; planes go through the mean of `some [batch, kv_heads, slots]`.
    """
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(x.shape[-1], bits, generator=generator, dtype=torch.float64).to(x)
    weight = some.unsqueeze(-1).to(x.dtype)
    middle = (x * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)
    powers = 2 ** torch.arange(bits - 1, -1, -1, device=x.device)
    return (((x - middle) @ planes > 0) * powers).sum(dim=-1)
