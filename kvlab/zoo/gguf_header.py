"""Read what a GGUF file says about itself: its metadata and where its tensors lie.

The `gguf` package's reader builds several numpy views for every string and number; on a vocabulary
of 262,144 tokens that takes 20 s, a plain pass over the bytes 1 s. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvlab.zoo.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies; `shape` in numpy's order (GGUF writes the fastest axis first)."""

    shape: tuple[int, ...]
    kind: int  # ggml's number of the quantization
    offset: int  # bytes from the start of the file


@dataclass(frozen=True)
class Header:
    """Metadata by key, and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, count = self.scalar("I"), self.scalar("Q")
        if inner in (_STRING, _ARRAY):
            return [self.value(inner) for _ in range(count)]
        values = struct.unpack_from(f"<{count}{_SCALARS[inner]}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{_SCALARS[inner]}")
        return list(values)


def read_header(path: Path) -> Header:
    """Metadata and tensor table of a little-endian GGUF file, version 2 or 3.

    Raises:
        ModelError: not such a file, or cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(data), path)
    except (struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a readable GGUF file; remove it and fetch the model again."
        ) from error


def _read(cursor: _Cursor, path: Path) -> Header:
    if cursor.data[:4] != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file; remove it and fetch the model again.")
    cursor.at = 4
    version, tensor_count, key_count = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
    if version not in (2, 3):
        raise ModelError(f"{path} has GGUF version {version}; kvlab reads versions 2 and 3.")
    metadata = {}
    for _ in range(key_count):
        key, kind = cursor.string(), cursor.scalar("I")
        metadata[key] = cursor.value(kind)
    table = []
    for _ in range(tensor_count):
        name = cursor.string()
        shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))[::-1]
        table.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    return Header(metadata, {name: TensorInfo(shape, kind, start + at) for name, shape, kind, at in table})
