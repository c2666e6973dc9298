"""Codecs: how an entry is written. One idea a file."""

from kvlab.codecs.base import Choice, Codec, Packed
from kvlab.codecs.chain import Chain
from kvlab.codecs.float16 import BFloat16, Float16
from kvlab.codecs.fp8 import Fp8
from kvlab.codecs.hadamard import Hadamard
from kvlab.codecs.int8 import Int8
from kvlab.codecs.kivi import KIVI
from kvlab.codecs.lloyd_max import TurboQuant
from kvlab.codecs.per_layer import PerLayer
from kvlab.codecs.quantize import Quantize

__all__ = [
    "KIVI",
    "BFloat16",
    "Chain",
    "Choice",
    "Codec",
    "Float16",
    "Fp8",
    "Hadamard",
    "Int8",
    "Packed",
    "PerLayer",
    "Quantize",
    "TurboQuant",
]
