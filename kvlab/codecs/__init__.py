"""Codecs: how an entry is written. One idea a file."""

from kvlab.codecs.base import Choice, Codec, Packed
from kvlab.codecs.int8 import Int8
from kvlab.codecs.kivi import KIVI
from kvlab.codecs.quantize import Quantize

__all__ = ["KIVI", "Choice", "Codec", "Int8", "Packed", "Quantize"]
