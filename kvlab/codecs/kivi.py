"""KIVI: keys per channel, values per token (Liu et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.codecs.base import Choice, Codec, Stream
from kvlab.codecs.quantize import Quantize

if TYPE_CHECKING:
    from kvlab.model.config import Config


@dataclass(eq=False)
class KIVI(Choice):
    """Asymmetric min/max quantization with the axis that suits each stream, behind an exact window.

    A few channels of the keys are large for every token, so each channel of `group_size` tokens has a scale
    of its own; values have no such channels, so `group_size` channels of each token share one. Keys leave
    the exact window a block of `group_size` at a time, so that the newest `residual` to `residual +
    group_size - 1` are exact; values leave it one by one. (The authors' code empties a full window of keys
    at once.) A prompt attends to itself exactly and is encoded after; what comes in a later chunk attends to
    codes. So the same text gives other logits, and other entries, when it comes in other chunks.

    Each number costs `bits + 32 / group_size` bits: with 2 bits and groups of 32, three. The error bound is
    that of `Quantize`.

    Raises:
        ValueError: as `Quantize`.
    """

    bits: int = 4
    group_size: int = 32
    residual: int = 128
    sink: int = 0

    def __post_init__(self) -> None:
        self.keys = Quantize(self.bits, "channel", self.group_size, self.residual, self.sink)
        self.values = Quantize(self.bits, "token", self.group_size, self.residual, self.sink)

    def at(self, layer: int, stream: Stream) -> Codec:
        return self.keys if stream == "keys" else self.values

    def refuse(self, config: Config) -> None:
        self.keys.refuse(config)
        self.values.refuse(config)
