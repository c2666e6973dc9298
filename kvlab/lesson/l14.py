"""Lesson 14: real keys and values, what their zeros, codes and neighbours are like, and the recorded runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kvlab.codecs import Codec, Packed, Quantize, simhash
from kvlab.codecs.calibrate import entries
from kvlab.codecs.entropy import EntropyCoder, histogram
from kvlab.codecs.huffman import code_lengths
from kvlab.codecs.packing import unpack
from kvlab.codecs.ragged import Ragged

from .chart_points import Point
from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

SINK = 4  # first tokens, unlike all others: left out of what is looked at
PLAIN = 23040  # bytes a token of SmolLM2 in float16: 30 layers, keys and values, 3 heads of 64 numbers


@dataclass(frozen=True)
class Seen:
    """Keys and values of one text, each `[layers, kv_heads, tokens, head_dim]`, without the sinks."""

    plain: Tensor  # keys before rotary
    keys: Tensor  # keys as attention sees them
    values: Tensor

    @property
    def numbers(self) -> int:
        return self.keys.numel() + self.values.numel()

    def zeros(self) -> int:
        """How many of the numbers are exactly zero."""
        return int((self.keys == 0).sum() + (self.values == 0).sum())


def texts(lm: Decoder, learn: int = 400, judge: int = 256) -> tuple[list[int], list[int]]:
    """Token ids of two texts from Python's own documentation: one to learn from, one to judge on."""
    from pydoc_data.topics import topics

    first, second = (
        lm.tokenizer.encode(topics[name][: 12 * n]) for name, n in (("specialnames", learn), ("types", judge))
    )
    return first[: learn + SINK], second[: judge + SINK]


def seen(lm: Decoder, ids: list[int]) -> Seen:
    """What a text leaves in the cache, before and after rotary embedding."""
    before, after = entries(lm, ids), entries(lm, ids, plain=False)

    def stack(pairs: list[tuple[Tensor, Tensor]], stream: int) -> Tensor:
        return torch.stack([pair[stream] for pair in pairs])[:, :, SINK:].cpu()

    return Seen(stack(before, 0), stack(after, 0), stack(after, 1))


def relative_error(codec: Codec, x: Tensor) -> float:
    """|decoded - x| / |x| over all layers and heads; `x [layers, kv_heads, tokens, head_dim]`."""
    back = codec.decode(codec.encode(x), torch.float32)
    return float((back - x).norm() / x.norm())


# --- bytes of one head vector -----------------------------------------------------------------------------


def vector_bytes(kept: int, dim: int = 64) -> dict[str, float]:
    """Bytes of a vector of which `kept` float16 numbers stay, by format."""
    return {"bitmap": 2 * kept + dim / 8, "CSR": 3 * kept, "all": 2 * dim, "int4": dim * (4 + 1) / 8}


def break_even(format: str, other: str, dim: int = 64) -> int:
    """The most numbers that may stay for `format` to take no more bytes than `other`."""
    fits = [k for k in range(dim + 1) if vector_bytes(k, dim)[format] <= vector_bytes(k, dim)[other]]
    return max(fits, default=0)


# --- symbols ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alphabet:
    """How often each code occurs in one head, and how long Huffman makes it."""

    counts: np.ndarray  # [codes]
    lengths: np.ndarray  # bits of each

    @property
    def share(self) -> np.ndarray:
        return self.counts / self.counts.sum()

    @property
    def entropy(self) -> float:
        """Bits a code at best."""
        p = self.share[self.share > 0]
        return float(-(p * np.log2(p)).sum())

    @property
    def mean(self) -> float:
        """Bits a code as Huffman writes them, without the table."""
        return float((self.share * self.lengths).sum())


def alphabet(codec: Quantize | Any, x: Tensor, levels: int) -> Alphabet:
    """The codes that a codec makes of `x [batch, kv_heads, tokens, head_dim]`."""
    codes = unpack(codec.encode(x)[codec.payload], codec.bits).flatten()
    counts = histogram(codes.numpy()[None], levels)[0]
    return Alphabet(counts, code_lengths(counts))


def flip(packed: Packed, bit: int) -> Packed:
    """A copy in which one bit of the first stream is wrong."""
    stream: Ragged = packed["stream0"]
    data = stream.data.clone()
    data[0, 0, bit // 8] ^= 128 >> bit % 8
    return {**packed, "stream0": Ragged(data, stream.ends)}


def damage(coder: EntropyCoder, packed: Packed, flips: int = 60) -> list[float]:
    """The share of codes of the first stream that come out wrong, for each of `flips` wrong bits in it.

    Every other stream must come out as it was.

    Raises:
        AssertionError: a wrong bit reached another stream.
    """
    right, found = unpack(coder.decode(packed), coder.bits), []
    n = 8 * int(packed["stream0"].spans()[1][0, 0, 0])
    for bit in range(n // flips // 2, n, n // flips):
        wrong = unpack(coder.decode(flip(packed, bit)), coder.bits) != right
        first = wrong[:, :, : coder.block]
        assert not wrong[:, 1:].any() and not wrong[:, :, coder.block :].any()
        found.append(float(first[0, 0].float().mean()))
    return found


# --- near duplicates --------------------------------------------------------------------------------------


def duplicates(found: Seen, cosine: float = 0.9) -> dict[str, float]:
    """The share of vectors that have a near twin in their head, by what is compared."""
    kinds = {"keys before rotary": found.plain, "keys after rotary": found.keys, "values": found.values}
    shares = {name: simhash.near_duplicates(x, cosine) for name, x in kinds.items()}
    centred = found.plain - found.plain.mean(2, keepdim=True)
    return {**shares, "keys before rotary, centred": simhash.near_duplicates(centred, cosine)}


def bucketed(x: Tensor, bits: int = 12) -> tuple[float, float]:
    """Buckets a vector, and the share in the fullest one, of SimHash with so many bits."""
    signature = simhash.signatures(x, bits)
    return simhash.buckets(signature), simhash.largest_bucket(signature)


# --- the recorded runs ------------------------------------------------------------------------------------


# name in the figure -> methods of the quality run, fewer bytes last
FAMILIES = {
    "pruned (mustafar)": ("mustafar-70", "mustafar-50", "mustafar-30"),
    "pruned, 4 bits": ("mustafar-50-int4",),
    "dictionary (lexico)": ("lexico-16", "lexico-8"),
    "KIVI, lesson 12": ("kivi-4", "kivi-3", "kivi-2"),
    "error bound": ("bounded-2", "bounded-5", "bounded-10"),
    "error bound, Huffman": ("bounded-2-huffman", "bounded-5-huffman"),
}


def families(found: Mapping[str, Point]) -> dict[str, list[Point]]:
    """The points of each family of this lesson."""
    return {name: [found[method] for method in methods] for name, methods in FAMILIES.items()}


@dataclass(frozen=True)
class Coded:
    """One line of the entropy run: bits a code."""

    stage: str
    plain: int
    entropy: float
    stream: float
    total: float  # with tables and ends
    times: float  # CPU time to decode, with the coder over without


def coded(run: Recorded, coder: str = "huffman", tables: str = "own", stream: str = "keys") -> list[Coded]:
    """The stages of the entropy run for one coder."""
    return [
        Coded(
            row["stage"],
            row["symbol_bits"],
            row["entropy_bits"],
            row["stream_bits"],
            row["total_bits"],
            (row["decode_seconds"] + row["plain_decode_seconds"]) / row["plain_decode_seconds"],
        )
        for row in run.select(coder=coder, tables=tables, stream=stream)
    ]
