"""float16 as bytes, high and low apart: what a codec of bytes can be chained behind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite


@dataclass(eq=False)
class BytePlanes(Codec):
    """Each token as float16: first the low bytes of all its numbers, then the high bytes.

    Sign, exponent and two bits of the fraction are the high byte, whose values repeat; the low one is almost
    noise. An entropy coder behind this codec can treat them apart: `Chain(BytePlanes(), Huffman(planes=2))`.

    What is float16 already comes back exactly; the error of others is that of `Float16`.

    Raises:
        ValueError: parameters out of range; NaN, infinite numbers, or |x| above 65504 (`encode`).
    """

    residual: int = 0
    sink: int = 0
    plain_keys: bool = False

    payload = "code"
    payload_dtype = torch.uint8

    def __post_init__(self) -> None:
        require_counts("BytePlanes", residual=self.residual, sink=self.sink)

    def encode(self, x: Tensor) -> Packed:
        """code: uint8 `[batch, kv_heads, tokens, 2 * head_dim]`."""
        half = x.to(torch.float16).contiguous()
        require_finite("BytePlanes", half, largest="65504")
        pairs = half.view(torch.uint8).unflatten(-1, (-1, 2))  # [..., head_dim, low and high]
        return {"code": pairs.transpose(-1, -2).flatten(-2)}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        pairs = packed["code"].unflatten(-1, (2, -1)).transpose(-1, -2)
        return pairs.flatten(-2).contiguous().view(torch.float16).to(dtype)
