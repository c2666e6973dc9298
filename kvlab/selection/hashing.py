"""Hashes under which near vectors collide: random hyperplanes, and random directions."""

from __future__ import annotations

import torch
from torch import Tensor

# How many of the eight bits of a byte are set.
_ONES = torch.tensor([bin(byte).count("1") for byte in range(256)], dtype=torch.uint8)


class Directions:
    """Random directions of one seed, made once for each width and device."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self.made: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        """`[head_dim, count]`, normally distributed, for vectors `like [..., head_dim]`."""
        key = like.shape[-1], like.device, like.dtype
        if key not in self.made:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(key[0], self.count, generator=generator, dtype=torch.float64)
            self.made[key] = drawn.to(like.device, like.dtype)
        return self.made[key]


def sign_bits(x: Tensor, directions: Tensor) -> Tensor:
    """On which side of each hyperplane, packed: uint8 `[..., bits / 8]` (SimHash; Charikar, 2002)."""
    bits = (x @ directions > 0).unflatten(-1, (-1, 8)).to(torch.uint8)
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=x.device)
    return (bits * powers).sum(dim=-1, dtype=torch.uint8)


def differing(a: Tensor, b: Tensor) -> Tensor:
    """Hamming distance of packed bits, summed over the last axis."""
    return _ONES.to(a.device)[(a ^ b).long()].sum(dim=-1, dtype=torch.int32)


def table_codes(x: Tensor, directions: Tensor, tables: int) -> Tensor:
    """A number of K sign bits for each of `tables` tables: int16 `[..., tables]`."""
    bits = (x @ directions > 0).unflatten(-1, (tables, -1))
    powers = 2 ** torch.arange(bits.shape[-1], device=x.device)
    return (bits * powers).sum(dim=-1).to(torch.int16)


def nearest_direction(x: Tensor, directions: Tensor, rounds: int) -> Tensor:
    """argmax over [xR; -xR] in each round: uint8 `[..., rounds]` (cross-polytope; Andoni et al., 2015)."""
    turned = (x @ directions).unflatten(-1, (rounds, -1))
    return torch.cat((turned, -turned), dim=-1).argmax(dim=-1).to(torch.uint8)


def centred(keys: Tensor, mean: Tensor) -> Tensor:
    """`keys [batch, kv_heads, slots, head_dim]` less the mean, which the softmax does not notice.

    Keys of a head lie in a narrow cone; around their mean, random hyperplanes tell them apart.
    """
    return keys - mean


def mean_of(keys: Tensor, real: Tensor) -> dict[str, Tensor]:
    """The mean of the first keys, `[batch, kv_heads, 1, head_dim]`; padding is left out."""
    some = real.unsqueeze(-1)
    total = (keys * some).sum(dim=2, keepdim=True)
    return {"mean": total / some.sum(dim=2, keepdim=True).clamp(min=1)}
