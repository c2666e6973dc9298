"""Uniform quantization: a few evenly spaced levels between the smallest and the largest number of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite
from kvlab.codecs.packing import multiple, pack, unpack

if TYPE_CHECKING:
    from kvlab.model.config import Config

Axis = Literal["token", "channel", "tensor"]
TINY = 2**-24  # the smallest float16 above zero: the scale of a group whose numbers are all equal


@dataclass(eq=False)
class Quantize(Codec):
    """`x ~ minimum + scale * code`, one float16 scale and minimum a group, codes packed into bytes.

    bits: 8, 4, 3 or 2. A number costs `bits + 32 / group` bits (symmetric: `bits + 16 / group`).
    axis: which numbers of a head share a scale. "token": `group_size` channels of one token (None: all of
        them). "channel": one channel of `group_size` tokens, which are encoded together. "tensor": all
        channels of `group_size` tokens.
    residual, sink: the newest and the first tokens, which stay exact.
    symmetric: no minimum; 2 ** bits - 1 levels around zero, so that zeros come back as zeros.
    plain_keys: keys are stored before the rotary embedding, and rotated when they are read.

    With L = 2 ** bits - 1 steps, the error of each number is at most `(max - min) / 2L`, half a step, plus
    what float16 does to scale and minimum: `2 ** -11 * (|min| + max - min)`, and 2 ** -17 for numbers that
    are almost zero. Symmetric: `max|x| / 2L` with L = 2 ** (bits - 1) - 1, plus `2 ** -11 * max|x|`.

    Raises:
        ValueError: parameters out of range, or a group or a packed byte that does not divide a head
            (`refuse`, when the cache is made); NaN, infinite numbers, or |x| above 65504 (`encode`).
    """

    bits: int = 4
    axis: Axis = "token"
    group_size: int | None = 32
    residual: int = 0
    sink: int = 0
    symmetric: bool = False
    plain_keys: bool = False

    payload = "code"
    payload_dtype = torch.uint8

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise ValueError(f"Quantize packs 8, 4, 3 or 2 bits, not {self.bits!r}.")
        if self.axis not in ("token", "channel", "tensor"):
            raise ValueError(f'axis is "token", "channel" or "tensor", not {self.axis!r}.')
        if self.group_size is None and self.axis != "token":
            raise ValueError(f'axis="{self.axis}" encodes group_size tokens together; give a number of them.')
        if self.group_size is not None and (not isinstance(self.group_size, int) or self.group_size < 1):
            raise ValueError(f"group_size must be an integer of at least 1, not {self.group_size!r}.")
        require_counts("Quantize", residual=self.residual, sink=self.sink)
        self.block = 1 if self.axis == "token" or self.group_size is None else self.group_size

    def refuse(self, config: Config) -> None:
        self._check(config.head_dim, f"head_dim {config.head_dim} of {config.name}")

    def _check(self, dim: int, what: str) -> None:
        if self.axis == "token" and self.group_size is not None and dim % self.group_size:
            raise ValueError(
                f"group_size={self.group_size} does not divide {what}; choose a divisor of it, or None for "
                "one group a token."
            )
        if dim % multiple(self.bits):
            raise ValueError(
                f"{multiple(self.bits)} codes of {self.bits} bits fill whole bytes, which does not divide "
                f"{what}; choose other bits."
            )

    def encode(self, x: Tensor) -> Packed:
        """Codes `[batch, kv_heads, tokens, bytes]`, or `[…, blocks, group_size, bytes]`; scales and minima
        with a 1 in place of what shares them."""
        self._check(x.shape[-1], f"the last axis, {x.shape[-1]}")
        groups, over = self._grouped(x.float())
        if self.symmetric:
            half = 2 ** (self.bits - 1) - 1
            scale = (groups.abs().amax(over, keepdim=True) / half).clamp(min=TINY).to(torch.float16)
            require_finite("Quantize", scale, largest="65504")
            code = (groups / scale.float()).round().clamp(-half, half) + half
            return {"code": self._packed(code, x), "scale": scale}
        steps = 2**self.bits - 1
        minimum = groups.amin(over, keepdim=True).to(torch.float16)
        spread = groups.amax(over, keepdim=True) - minimum.float()  # of the minimum as it will be read back
        scale = (spread / steps).clamp(min=TINY).to(torch.float16)
        require_finite("Quantize", scale, minimum, largest="65504")
        code = ((groups - minimum.float()) / scale.float()).round().clamp(0, steps)
        return {"code": self._packed(code, x), "scale": scale, "minimum": minimum}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        code, scale = unpack(packed["code"], self.bits), packed["scale"].float()
        if self.axis == "token":
            code = code.unflatten(-1, (scale.shape[-2], -1))  # [batch, kv_heads, tokens, groups, group]
        if self.symmetric:
            x = (code.to(torch.int16) - (2 ** (self.bits - 1) - 1)) * scale
        else:
            x = code * scale + packed["minimum"].float()
        return (x.flatten(-2) if self.axis == "token" else x.flatten(2, 3)).to(dtype)

    def _grouped(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """`x` with the tokens or channels of a group in an axis of their own, and the axes that share."""
        if self.axis == "token":
            return x.unflatten(-1, (-1, self.group_size or x.shape[-1])), (-1,)
        return x.unflatten(2, (-1, self.block)), (-2,) if self.axis == "channel" else (-2, -1)

    def _packed(self, code: Tensor, x: Tensor) -> Tensor:
        code = code.to(torch.uint8)
        return pack(code.flatten(-2) if self.axis == "token" else code, self.bits)
