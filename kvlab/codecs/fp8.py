"""Eight-bit floating point with one scale per token and head."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_finite
from kvlab.codecs.quantize import TINY

LARGEST = 448.0  # of float8_e4m3fn
FORMAT = torch.float8_e4m3fn


class Fp8(Codec):
    """e4m3 (4 bits of exponent, 3 of fraction; Micikevicius et al., 2022), scaled token by token.

    The largest |x| of a token's head vector becomes 448, the largest number of the format; its float16
    scale is stored beside. (A scale that is set once, by the first tokens, clips whatever is larger later.)
    The error of each number is at most `2 ** -4 * |x|`, and `2 ** -10 / 448 * max|x|` for the small ones of
    a vector, plus the rounding of the scale: relative 2 ** -11, or 2 ** -25 * 448 where max|x| is below
    0.028.

    Raises:
        ValueError: NaN, infinite numbers, or |x| above 29 million (`encode`).
    """

    def encode(self, x: Tensor) -> Packed:
        largest = x.float().abs().amax(dim=-1, keepdim=True)
        scale = (largest / LARGEST).clamp(min=TINY).to(torch.float16)  # [batch, kv_heads, tokens, 1]
        require_finite("Fp8", scale, largest="2.9e7")
        code = (x.float() / scale.float()).clamp(-LARGEST, LARGEST).to(FORMAT)
        return {"code": code.view(torch.uint8), "scale": scale}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return (packed["code"].view(FORMAT).float() * packed["scale"].float()).to(dtype)

    def __repr__(self) -> str:
        return "Fp8()"
