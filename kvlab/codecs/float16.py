"""Sixteen bits a number: the format that most caches start from."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_finite


class Float16(Codec):
    """IEEE half precision: 5 bits of exponent, 10 of fraction.

    The error of each number is at most `2 ** -11 * |x|`, and 2 ** -25 where |x| is below 2 ** -14.

    Raises:
        ValueError: NaN, infinite numbers, or |x| above 65504 (`encode`).
    """

    format = torch.float16
    largest = "65504"
    payload = "value"

    def encode(self, x: Tensor) -> Packed:
        value = x.to(self.format)
        require_finite(type(self).__name__, value, largest=self.largest)
        return {"value": value}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return packed["value"].to(dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class BFloat16(Float16):
    """bfloat16: 8 bits of exponent as in float32, 7 of fraction.

    The error of each number is at most `2 ** -8 * |x|`, and 2 ** -134 where |x| is below 2 ** -126.

    Raises:
        ValueError: NaN, infinite numbers, or |x| above 3.38e38 (`encode`).
    """

    format = torch.bfloat16
    largest = "3.38e38"
