"""One signed byte per number, one scale per token and head."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed


class Int8(Codec):
    """Symmetric 8-bit quantization per token: `x ~ scale * code`, code in -127 … 127.

    The largest |x| of a token's head vector sets its scale (float16, 2 bytes), so the error of each
    number is at most half a step, `max|x| / 254`, plus 127 times the rounding of the scale itself:
    relative 2 ** -11, absolute 2 ** -25 where max|x| is below 0.008. Zeros come back as zeros.

    Raises:
        ValueError: on NaN or infinite input, or |x| above 8 million, whose scale float16 cannot hold.
    """

    def encode(self, x: Tensor) -> Packed:
        largest = x.abs().amax(dim=-1, keepdim=True).float()  # [batch, kv_heads, tokens, 1]
        scale = (largest / 127).clamp(min=2**-24).to(torch.float16)  # the smallest float16 above zero
        if not torch.compiler.is_compiling() and not scale.isfinite().all():
            raise ValueError(
                "Int8 cannot encode NaN, infinite or huge (above 8e6) numbers; find where they come from."
            )
        code = (x.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
        return {"code": code, "scale": scale}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return (packed["code"].float() * packed["scale"].float()).to(dtype)
