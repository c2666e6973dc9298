"""Where models come from."""

from kvlab.zoo.errors import ModelError
from kvlab.zoo.load import load, names, random, shapes
from kvlab.zoo.shapes import SHAPES, weight_shapes
from kvlab.zoo.store import fetch, gguf_file
from kvlab.zoo.tokenizer import ByteTokenizer, PieceTokenizer, Tokenizer

__all__ = [
    "SHAPES",
    "ByteTokenizer",
    "ModelError",
    "PieceTokenizer",
    "Tokenizer",
    "fetch",
    "gguf_file",
    "load",
    "names",
    "random",
    "shapes",
    "weight_shapes",
]
