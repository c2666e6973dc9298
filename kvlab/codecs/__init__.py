"""Codecs: how an entry is written. One idea a file."""

from kvlab.codecs.base import Codec, Packed
from kvlab.codecs.int8 import Int8

__all__ = ["Codec", "Int8", "Packed"]
