"""Rank keys by the bits that their hashes share with the query's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, Selection, grouped
from kvlab.selection.hashing import Directions, centred, differing, mean_of, sign_bits

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class SimHash(Selection):
    """Read the `k` keys whose sign bits differ least from the query's (Charikar, 2002).

    Two vectors at an angle θ fall on different sides of a random hyperplane with probability θ / π, so the
    number of differing bits of `bits` estimates the angle. The length of a key is lost: it is left out of
    the score. Keys are hashed around the mean of the first ones. `bits` / 8 bytes a key are kept and read.
    The heads of a group add their bits.

    Raises:
        ValueError: if `k` is less than 1, or `bits` no positive multiple of 8.
    """

    page = 1

    def __init__(self, bits: int = 128, k: int = 128, seed: int = 0):
        if bits < 8 or bits % 8 or k < 1:
            raise ValueError(f"SimHash needs bits in multiples of 8 and k >= 1, not {bits} and {k}.")
        self.bits, self.k = bits, k
        self.directions = Directions(bits, seed)

    def constants(self, keys: Tensor, real: Tensor) -> dict[str, Tensor]:
        return mean_of(keys, real)

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"code": sign_bits(centred(keys, constants["mean"]), self.directions(keys))}

    def shared_tensors(self) -> list[Tensor]:
        return list(self.directions.made.values())

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        if index.pages <= self.k:
            return None
        codes = index["code"]  # [batch, kv_heads, slots, bits / 8]
        q = grouped(queries, codes.shape[1])
        asked = sign_bits(q, self.directions(q))  # [batch, kv_heads, group, bits / 8]
        apart = sum(differing(codes, asked[:, :, i : i + 1]) for i in range(asked.shape[2]))
        assert isinstance(apart, Tensor)
        apart = apart.masked_fill(~visible[:, :, 0, : index.pages], torch.iinfo(apart.dtype).max)
        rows = apart.topk(self.k, dim=-1, largest=False).indices.sort(dim=-1).values
        return Pick(rows, codes.nbytes)
