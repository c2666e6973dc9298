"""As many levels as an error bound asks for: codes that an entropy coder can shorten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite
from kvlab.codecs.packing import multiple, pack, unpack
from kvlab.codecs.quantize import TINY, Axis


@dataclass(eq=False)
class ErrorBounded(Codec):
    """`x ~ minimum + scale * code`, where no error is above `bound * (max - min)` of the numbers that share.

    This is the quantizer of KVComp (Jiang et al., 2025), which Huffman codes follow there, too. The bound
    decides on the levels, `ceil(1 / (2 * bound)) + 1`, and many numbers share a scale: keys by channel,
    values by token. A bell-shaped distribution stretched over its whole range uses the middle levels most,
    and that is what `Huffman` and `Rans` live on. By itself this codec packs 2, 4 or 8 bits a code.

    axis: "channel": one channel of `block` tokens shares a scale; "token": all of one token; "tensor": all of
    `block` tokens. residual, sink, plain_keys: as in `Quantize`.

    On top of the bound comes what float16 does to minimum and scale, at most `2 ** -11 * (|min| + max -
    min)`, and 2 ** -16 for numbers that are almost zero.

    Raises:
        ValueError: parameters out of range; a head_dim that packed codes do not fill (`encode`); NaN,
            infinite numbers, or |x| above 65504 (`encode`).
    """

    bound: float = 0.05
    axis: Axis = "channel"
    tokens: int = 64
    residual: int = 0
    sink: int = 0
    plain_keys: bool = False

    payload = "code"
    payload_dtype = torch.uint8

    def __post_init__(self) -> None:
        if not 1 / 510 <= self.bound <= 0.5:
            raise ValueError(
                f"bound is the error allowed as a share of the range, 1/510 (256 levels) to 0.5 (2 levels): "
                f"not {self.bound}."
            )
        if self.axis not in ("token", "channel", "tensor"):
            raise ValueError(f'axis is "token", "channel" or "tensor", not {self.axis!r}.')
        if not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"tokens are encoded together, 1 or more, not {self.tokens!r}.")
        require_counts("ErrorBounded", residual=self.residual, sink=self.sink)
        self.steps = math.ceil(round(1 / (2 * self.bound), 9))
        self.bits = next(bits for bits in (2, 4, 8) if self.steps < 2**bits)
        self.block = 1 if self.axis == "token" else self.tokens

    def encode(self, x: Tensor) -> Packed:
        """code: uint8 `[batch, kv_heads, blocks, block, bytes]`, without `block` for axis "token"; scale and
        minimum: float16 with a 1 in place of what shares them."""
        if x.shape[-1] % multiple(self.bits):
            raise ValueError(f"codes of {self.bits} bits do not fill the bytes of {x.shape[-1]} numbers.")
        groups = x.float() if self.axis == "token" else x.float().unflatten(2, (-1, self.block))
        over = {"token": (-1,), "channel": (-2,), "tensor": (-2, -1)}[self.axis]
        minimum = groups.amin(over, keepdim=True).to(torch.float16)
        spread = groups.amax(over, keepdim=True) - minimum.float()
        scale = (spread / self.steps).clamp(min=TINY).to(torch.float16)
        require_finite("ErrorBounded", scale, minimum, largest="65504")
        code = ((groups - minimum.float()) / scale.float()).round().clamp(0, self.steps).to(torch.uint8)
        return {"code": pack(code, self.bits), "scale": scale, "minimum": minimum}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        x = unpack(packed["code"], self.bits) * packed["scale"].float() + packed["minimum"].float()
        return (x if self.axis == "token" else x.flatten(2, 3)).to(dtype)
