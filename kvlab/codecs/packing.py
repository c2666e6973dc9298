"""Codes of a few bits, packed into bytes for real."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = (1, 2, 3, 4, 8)  # a code of 3 bits lies across bytes: 8 codes in 3 bytes


def multiple(bits: int) -> int:
    """Codes that fill whole bytes: their number must be a multiple of this."""
    return 8 if bits == 3 else 8 // bits


def pack(codes: Tensor, bits: int) -> Tensor:
    """`codes [..., n]`, uint8 below 2 ** bits -> bytes `[..., n * bits / 8]`, uint8.

    Codes that share a byte do not lie side by side but a part of the vector apart (4 bits: code i and code
    i + n / 2): each part is then contiguous, and unpacking is a shift and one copy.
    """
    if bits == 8:
        return codes
    parts = codes.chunk(multiple(bits), dim=-1)
    if bits == 3:
        a, b, c, d, e, f, g, h = parts
        lines = [a | b << 3 | c << 6, c >> 2 | d << 1 | e << 4 | f << 7, f >> 1 | g << 2 | h << 5]
        return torch.cat(lines, dim=-1)
    packed = parts[0].clone()
    for i, part in enumerate(parts[1:], start=1):
        packed |= part << (i * bits)
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """What was packed: bytes `[..., m]` -> codes `[..., m * 8 / bits]`, uint8."""
    if bits == 8:
        return packed
    if bits == 3:
        x, y, z = packed.chunk(3, dim=-1)
        parts = [x, x >> 3, x >> 6 | y << 2, y >> 1, y >> 4, y >> 7 | z << 1, z >> 2, z >> 5]
        return torch.cat([part & 7 for part in parts], dim=-1)
    mask = 2**bits - 1
    return torch.cat([packed >> shift & mask for shift in range(0, 8, bits)], dim=-1)
