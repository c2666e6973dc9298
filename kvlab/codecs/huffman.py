"""Canonical Huffman codes: short bit strings for frequent symbols."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from torch import Tensor

from kvlab.codecs.entropy import EntropyCoder, Symbols, histogram

LIMIT = 15  # bits of the longest code: a length then fits four bits, and a code with what follows 24
STRIDE = 32  # symbols that one jump of the decoder skips
TOGETHER = 1 << 14  # bytes of streams that it takes at a time: their tables then stay in the CPU's cache


class Huffman(EntropyCoder):
    """Huffman's codes (1952) in canonical form (Schwartz & Kallick, 1964): the lengths alone are the table.

    A symbol's code has a whole number of bits, at least one, so a code that says one thing nearly always
    still costs a bit. A table is four bits a symbol: 8 bytes for symbols of 4 bits, 128 for 8 bits.
    Parameters and errors: see `EntropyCoder`.
    """

    def _shared(self, counts: Tensor) -> Tensor:
        return torch.from_numpy(_nibbles(code_lengths(counts.numpy())))

    def _encode(self, symbols: Symbols) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        alphabet = 2**self.bits
        if self.shared is None:
            lengths = np.array([code_lengths(c) for c in histogram(symbols, alphabet)], np.uint8)
        else:
            lengths = _unnibble(self.shared.numpy())[None].repeat(len(symbols), 0)
        codes = np.stack([canonical(row) for row in lengths]) if len(lengths) else lengths.astype(np.uint16)
        data, sizes = write(symbols, lengths, codes)
        return data, sizes, _nibbles(lengths) if self.shared is None else None

    def _decode(self, data: np.ndarray, ends: np.ndarray, table: np.ndarray | None, n: int) -> Symbols:
        lengths = _unnibble(self.shared.numpy()[None] if table is None else table)
        return read(data, ends, lengths, n)


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code, uint8, 0 for a symbol that does not occur; LIMIT at most.

    Where a code would be longer, counts are halved until it is not, which costs little and is simple.
    """
    counts = counts.astype(np.int64)
    while True:
        lengths = _tree(counts)
        if lengths.max(initial=0) <= LIMIT:
            return lengths
        counts = (counts + 1) // 2


def _tree(counts: np.ndarray) -> np.ndarray:
    """Join the two rarest until one tree is left; a symbol's depth in it is the length of its code."""
    present = np.flatnonzero(counts).tolist()
    lengths = np.zeros(len(counts), np.uint8)
    if len(present) < 2:
        lengths[present] = 1
        return lengths
    heap = [(int(counts[s]), s) for s in present]  # (count, node); leaves are their symbols
    heapq.heapify(heap)
    parent: dict[int, int] = {}
    for node in range(len(counts), len(counts) + len(present) - 1):
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        parent[a[1]] = parent[b[1]] = node
        heapq.heappush(heap, (a[0] + b[0], node))
    depth = {node: 0}  # the root was made last
    for inner in range(node - 1, len(counts) - 1, -1):
        depth[inner] = depth[parent[inner]] + 1
    for s in present:
        lengths[s] = min(depth[parent[s]] + 1, 255)
    return lengths


def canonical(lengths: np.ndarray) -> np.ndarray:
    """The codes, uint16: in order of length, then of symbol, each is the one before plus one."""
    codes = np.zeros(len(lengths), np.uint16)
    code = before = 0
    for s in np.lexsort((np.arange(len(lengths)), lengths)).tolist():
        if lengths[s]:
            code <<= int(lengths[s]) - before
            codes[s], before = code, int(lengths[s])
            code += 1
    return codes


def write(symbols: Symbols, lengths: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The streams, each filled up to a whole byte, and their sizes in bytes."""
    row = np.arange(len(symbols))[:, None]
    length, code = lengths[row, symbols].astype(np.int64), codes[row, symbols]
    sizes = (length.sum(1) + 7) // 8
    start = np.cumsum(length, 1) - length + 8 * (np.cumsum(sizes) - sizes)[:, None]  # in bits
    bits = np.zeros(8 * int(sizes.sum()), np.uint8)
    for i in range(int(length.max(initial=0))):  # the i-th bit of every code that has one
        has = length > i
        bits[start[has] + i] = code[has] >> (length[has] - 1 - i) & 1
    return np.packbits(bits), sizes


def read(data: np.ndarray, ends: np.ndarray, lengths: np.ndarray, n: int) -> Symbols:
    """`n` symbols of each stream; `lengths`: of each stream, or one row for all."""
    out = np.zeros((len(ends), n), np.uint8)
    first = 0
    while n and first < len(ends):
        begin = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, begin + TOGETHER)))
        rows = lengths[first:last] if len(lengths) > 1 else lengths
        out[first:last] = _read(data[begin : ends[last - 1]], ends[first:last] - begin, rows, n)
        first = last
    return out


def _read(data: np.ndarray, ends: np.ndarray, lengths: np.ndarray, n: int) -> Symbols:
    """Where a code begins is known only when the one before has been read.

    So a code is read at *every* bit, most of them wrong, all at once. From each bit the code there says where
    the next one would begin: STRIDE such steps are folded into one jump, the jumps are taken along each
    stream, and the symbols between are read for all jumps at once.
    """
    sizes, streams = np.diff(ends, prepend=0), len(ends)
    width = int(lengths.max())
    which = np.repeat(np.arange(streams) % len(lengths), sizes)
    wide = np.concatenate((data, np.zeros(2, np.uint8))).astype(np.int64)  # NumPy's own type of an index
    three = wide[:-2] << 16 | wide[1:-1] << 8 | wide[2:]  # the 24 bits from each byte on
    ahead = three[:, None] >> (24 - width - np.arange(8)) & (1 << width) - 1
    entry = _windows(lengths, width)[ahead + (which << width)[:, None]].ravel()  # at every bit
    step = np.minimum(np.arange(len(entry)) + (entry & 15), len(entry) - 1)
    jump = step
    for _ in range(STRIDE.bit_length() - 1):
        jump = jump[jump]
    at = np.empty((-(-n // STRIDE), streams), np.int64)
    at[0] = 8 * (ends - sizes)
    for i in range(1, len(at)):
        at[i] = jump[at[i - 1]]
    out = np.empty((streams, len(at), STRIDE), np.uint8)
    for k in range(STRIDE):
        out[:, :, k] = (entry[at] >> 4).T
        at = step[at]
    return out.reshape(streams, -1)[:, :n]


def _windows(lengths: np.ndarray, width: int) -> np.ndarray:
    """For the next `width` bits: the symbol they begin with and its length, as symbol * 16 + length.

    `lengths [tables, symbols]` -> uint16 `[tables * 2 ** width]`.
    """
    order = np.argsort(lengths, axis=1, kind="stable")  # canonical: by length, then by symbol
    length = np.take_along_axis(lengths, order, 1).astype(np.int64)
    share = np.where(length > 0, 1 << (width - np.maximum(length, 1)), 0)  # of the windows, for each symbol
    rest = (1 << width) - share.sum(1)  # a single symbol leaves half of them open
    entries = np.concatenate((order << 4 | length, np.zeros_like(order[:, :1])), 1).astype(np.uint16)
    return np.repeat(entries.ravel(), np.concatenate((share, rest[:, None]), 1).ravel())


def _nibbles(lengths: np.ndarray) -> np.ndarray:
    """Two lengths a byte."""
    return lengths[..., 0::2] | lengths[..., 1::2] << 4


def _unnibble(packed: np.ndarray) -> np.ndarray:
    return np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:-1], -1)
