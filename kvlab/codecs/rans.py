"""rANS, a range coder: a symbol may cost a fraction of a bit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kvlab.codecs.entropy import Counts, EntropyCoder, Symbols, histogram

PRECISION = 12  # bits: a symbol's frequency is a share of 4,096
TOTAL = 1 << PRECISION
LOW = 1 << 16  # a state lies in [2 ** 16, 2 ** 32)


class Rans(EntropyCoder):
    """Range coding by asymmetric numeral systems (Duda, 2013), interleaved (Giesen, 2014).

    A stream is one number: a symbol of frequency f/4096 multiplies it by 4096/f, and so costs log2(4096/f)
    bits. What the number outgrows 32 bits by is written, 16 bits at a time. `lanes` such numbers share a
    stream in turn, so that NumPy advances many at once; each costs 4 bytes, of which about two hold symbols.

    A table is 2 bytes a symbol. Other parameters and errors: see `EntropyCoder`.

    Raises:
        ValueError: also `lanes` below 1.
    """

    def __init__(
        self, bits: int = 8, tokens: int = 64, planes: int = 1, counts: Tensor | None = None, lanes: int = 8
    ):
        if not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"Rans needs 1 lane or more in a stream, not {lanes!r}.")
        self.lanes = lanes
        super().__init__(bits, tokens, planes, counts)

    def _shared(self, counts: Tensor) -> Tensor:
        return torch.from_numpy(frequencies(counts.numpy()[None])[0])

    def _encode(self, symbols: Symbols) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        own = self.shared is None
        freq = frequencies(histogram(symbols, 2**self.bits)) if own else self.shared.numpy()[None]
        data, sizes = write(symbols, freq.astype(np.int64), self.lanes)
        return data, sizes, freq.view(np.uint8) if own else None

    def _decode(self, data: np.ndarray, ends: np.ndarray, table: np.ndarray | None, n: int) -> Symbols:
        freq = self.shared.numpy()[None] if table is None else np.ascontiguousarray(table).view(np.uint16)
        return read(data, ends, freq.astype(np.int64), n, self.lanes)


def frequencies(counts: Counts) -> np.ndarray:
    """Shares of 4,096 as near to `counts` as can be, uint16; what occurs gets 1 or more."""
    counts = counts.astype(np.int64)
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    freq = np.where(counts > 0, np.maximum(counts * TOTAL // total, 1), 0)
    for row in freq:  # rounding left too few, or ones made too many: the most frequent symbols even it out
        while row.any() and (missing := TOTAL - int(row.sum())):
            top = int(row.argmax())
            row[top] += max(missing, -(int(row[top]) // 2))
    return freq.astype(np.uint16)


def write(symbols: Symbols, freq: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """The streams and their sizes in bytes: the lanes' last states, then the words that they gave off."""
    streams, n = symbols.shape
    turns = -(-n // lanes)
    row = (np.arange(streams) if len(freq) > 1 else np.zeros(streams, np.int64))[:, None]
    start = np.cumsum(freq, 1) - freq
    state = np.full((streams, lanes), LOW, np.uint64)
    words = np.zeros((streams, turns, lanes), np.uint16)
    gave = np.zeros((streams, turns, lanes), bool)
    for t in range(turns - 1, -1, -1):  # backwards: what is decoded last is encoded first
        these = symbols[:, t * lanes : (t + 1) * lanes]
        k = these.shape[1]
        f, c = freq[row, these].astype(np.uint64), start[row, these].astype(np.uint64)
        x = state[:, :k]
        full = x >= f << np.uint64(32 - PRECISION)  # the next state would not fit 32 bits
        words[:, t, :k], gave[:, t, :k] = x & np.uint64(0xFFFF), full
        x = np.where(full, x >> np.uint64(16), x)
        state[:, :k] = (x // f << np.uint64(PRECISION)) + x % f + c
    given = gave.reshape(streams, -1).sum(1)
    sizes = 4 * lanes + 2 * given
    heads = state.astype("<u4").view(np.uint8).reshape(streams, -1)
    body = words[gave].astype("<u2").view(np.uint8)  # by stream, turn and lane: the order of reading
    parts = np.split(body, np.cumsum(2 * given)[:-1]) if streams else []
    pieces = [piece for pair in zip(heads, parts, strict=True) for piece in pair]
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)), sizes


def read(data: np.ndarray, ends: np.ndarray, freq: np.ndarray, n: int, lanes: int) -> Symbols:
    """`n` symbols of each stream; `freq`: a table for each stream, or one row for all."""
    streams = len(ends)
    if not streams or not n:
        return np.zeros((streams, n), np.uint8)
    begin = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
    heads = data[begin[:, None] + np.arange(4 * lanes)]
    state = np.ascontiguousarray(heads).view("<u4").astype(np.int64)  # [streams, lanes]
    words = np.concatenate((data, np.zeros(2, np.uint8)))[: len(data) // 2 * 2 + 2].view("<u2")
    at = (begin + 4 * lanes) // 2  # [streams] the next word of each; every size is even
    start = np.cumsum(freq, 1) - freq
    of_slot = np.stack([np.repeat(np.arange(freq.shape[1]), row) for row in freq])  # [tables, 4096]
    row = (np.arange(streams) if len(freq) > 1 else np.zeros(streams, np.int64))[:, None]
    out = np.empty((streams, -(-n // lanes), lanes), np.uint8)
    for t in range(out.shape[1]):
        k = min(lanes, n - t * lanes)
        x = state[:, :k]
        slot = x & TOTAL - 1
        symbol = of_slot[row, slot]
        out[:, t, :k] = symbol
        x = freq[row, symbol] * (x >> PRECISION) + slot - start[row, symbol]
        short = x < LOW
        nth = np.cumsum(short, 1)  # lanes take words in turn
        word = words[np.minimum(at[:, None] + nth - 1, len(words) - 1)]
        state[:, :k] = np.where(short, x << 16 | word, x)
        at += nth[:, -1]
    return out.reshape(streams, -1)[:, :n]
