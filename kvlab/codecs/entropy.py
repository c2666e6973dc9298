"""What entropy coders share: bytes are cut into symbols, and each block becomes one stream."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed
from kvlab.codecs.packing import pack, unpack
from kvlab.codecs.ragged import Ragged

Symbols = np.ndarray  # uint8 [streams, symbols a stream]
Counts = np.ndarray  # int64 [streams, 2 ** bits]: how often each symbol occurs


class EntropyCoder(Codec):
    """Lossless, for the codes that another codec leaves: `Chain(Quantize(4), Huffman(bits=4))`.

    Frequent symbols get short codes. Each block of each head becomes one stream of bytes, which is decoded by
    itself. Streams differ in length, so the store keeps where each one ends (4 bytes); a static store has no
    room for that and refuses it.

    bits: of a symbol, 2, 4 or 8. Codes of `Quantize(bits=4)` share bytes and are taken apart again.
    tokens: how many of axis 2 make one stream: tokens, or blocks of the codec before.
    planes: the last axis is cut into so many equal parts, each with streams and tables of its own.
    counts: how often each symbol occurs, `[2 ** bits]`, from other text. None: every stream carries a table
        of its own, which fits better and costs bytes.

    Computed on the CPU with NumPy, whatever device the codes come from.

    Raises:
        ValueError: parameters out of range; input that is not uint8 codes, or that `planes` does not divide.
    """

    exact = True
    payload_dtype = torch.uint8

    def __init__(self, bits: int = 8, tokens: int = 64, planes: int = 1, counts: Tensor | None = None):
        name = type(self).__name__
        if bits not in (2, 4, 8):
            raise ValueError(f"{name} takes symbols of 2, 4 or 8 bits, not {bits!r}.")
        if not isinstance(tokens, int) or tokens < 2:
            raise ValueError(
                f"{name} needs 2 tokens or more in a stream, not {tokens!r}: each costs a table."
            )
        if not isinstance(planes, int) or planes < 1:
            raise ValueError(f"{name} cuts the last axis into 1 or more planes, not {planes!r}.")
        if counts is not None and (counts.shape != (2**bits,) or bool((counts < 0).any())):
            raise ValueError(f"{name} needs counts of {2**bits} symbols, none below 0, not {counts!r}.")
        self.bits, self.block, self.planes = bits, tokens, planes
        # Every symbol must have a code, even one that the other text did not have.
        self.shared = None if counts is None else self._shared(counts.long().clamp(min=1))

    @abstractmethod
    def _shared(self, counts: Tensor) -> Tensor:
        """The one table of all streams, as it is kept."""

    @abstractmethod
    def _encode(self, symbols: Symbols) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """All streams one behind the other (uint8), their lengths in bytes (int64 [streams]), and the
        streams' own tables ([streams, bytes]; None: the shared one was used)."""

    @abstractmethod
    def _decode(self, data: np.ndarray, ends: np.ndarray, table: np.ndarray | None, n: int) -> Symbols:
        """Back, from the streams, where they end, their tables, and how many symbols each has."""

    def encode(self, x: Tensor) -> Packed:
        """Pack uint8 codes `x [batch, kv_heads, tokens, ...]`, one block or more.

        For each plane i: `stream{i}`, a `Ragged`; and `table{i}` where tables are not shared. `like` holds no
        bytes: its shape `[batch, kv_heads, blocks, 0, tokens, ...]` says how to fold what was decoded.
        """
        if x.dtype != torch.uint8:
            raise ValueError(
                f"{type(self).__name__} takes uint8 codes, not {x.dtype}: put it behind a codec that makes "
                "codes, as in Chain(Quantize(4), Huffman(bits=4))."
            )
        if x.shape[-1] % self.planes:
            raise ValueError(f"{x.shape[-1]} bytes cannot be cut into {self.planes} equal planes.")
        batch, heads, tokens, *rest = x.shape
        blocks = tokens // self.block
        like = x.new_empty(batch, heads, blocks, 0, self.block, *rest)
        packed: Packed = {"like": like}
        for i, plane in enumerate(x.chunk(self.planes, dim=-1)):
            # By block, sequence, head: the order of a Ragged, so that new blocks come last.
            codes = unpack(plane.unflatten(2, (blocks, self.block)), self.bits).movedim(2, 0)
            symbols = codes.flatten(3).flatten(0, 2).cpu().numpy()  # [streams, symbols]
            data, sizes, table = self._encode(symbols)
            lengths = torch.from_numpy(sizes).view(blocks, batch, heads).permute(1, 2, 0)
            packed[f"stream{i}"] = Ragged.pack(torch.from_numpy(data).to(x.device), lengths.to(x.device))
            if table is not None:
                per_block = (
                    torch.from_numpy(table).view(blocks, batch, heads, table.shape[1]).permute(1, 2, 0, 3)
                )
                packed[f"table{i}"] = per_block.to(x.device)
        return packed

    def decode(self, packed: Packed, dtype: torch.dtype = torch.uint8) -> Tensor:
        """The codes, uint8 `[batch, kv_heads, tokens, ...]`; `dtype` changes nothing."""
        batch, heads, blocks, _, tokens, *rest = packed["like"].shape
        wide = rest[-1] // self.planes * 8 // self.bits  # symbols in the last axis of a plane
        n = tokens * int(np.prod(rest[:-1], dtype=np.int64)) * wide
        parts = []
        for i in range(self.planes):
            stream, table = packed[f"stream{i}"], packed.get(f"table{i}")
            own = None if table is None else table.permute(2, 0, 1, 3).flatten(0, 2).cpu().numpy()
            ends = stream.ends.permute(2, 0, 1).flatten().cpu().numpy().astype(np.int64)
            symbols = self._decode(stream.data.flatten().cpu().numpy(), ends, own, n)
            codes = torch.from_numpy(symbols).view(blocks, batch, heads, tokens, *rest[:-1], wide)
            parts.append(pack(codes.movedim(0, 2).flatten(2, 3), self.bits))
        return torch.cat(parts, dim=-1).to(packed["like"].device)

    def shared_tensors(self) -> list[Tensor]:
        return [] if self.shared is None else [self.shared]


def histogram(symbols: Symbols, alphabet: int) -> Counts:
    """How often each symbol occurs in each stream."""
    streams = len(symbols)
    offset = np.arange(streams, dtype=np.int64)[:, None] * alphabet
    flat = np.bincount((symbols + offset).ravel(), minlength=streams * alphabet)
    return flat.reshape(streams, alphabet)


def entropy(counts: Counts) -> float:
    """Bits a symbol at best, if symbols come by chance, each as often as counted (Shannon, 1948)."""
    total = counts.sum(-1, keepdims=True)
    share = counts / np.maximum(total, 1)
    bits = -(share * np.log2(np.where(share > 0, share, 1))).sum(-1)  # of each stream
    return float((bits * total[:, 0]).sum() / max(total.sum(), 1))
