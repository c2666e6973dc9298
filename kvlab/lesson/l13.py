"""Lesson 13: rotation, codebooks, keys before rotary, chunks, and what was recorded of packed attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kvlab
from kvlab import Hadamard, Quantize, TurboQuant
from kvlab.cache import CodecPair
from kvlab.codecs import Codec
from kvlab.codecs.calibrate import entries
from kvlab.codecs.hadamard import rotation
from kvlab.codecs.lloyd_max import lloyd_max
from kvlab.measure.quality_stats import Interval, geometric

from .l12 import bits_per_number, error
from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

BITS = (4, 3, 2)
SINKS = 4  # the first tokens are unlike all others (lesson 12): left out here, exact in the recorded runs


# --- real entries -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entries:
    """Keys and values of one text without its first tokens, each `[layers, kv_heads, tokens, head_dim]`."""

    keys: Tensor  # as they are attended to
    values: Tensor
    plain: Tensor  # keys before rotary

    @classmethod
    def take(cls, lm: Decoder, ids: Sequence[int]) -> Entries:
        cached, before = entries(lm, ids, plain=False), entries(lm, ids, plain=True)
        keys, values = (torch.stack([pair[i] for pair in cached])[:, :, SINKS:] for i in (0, 1))
        return cls(keys, values, torch.stack([k for k, _ in before])[:, :, SINKS:])


def rotated(x: Tensor) -> Tensor:
    """`x [..., head_dim]` after the rotation that the package's codecs use."""
    return x @ rotation(x.shape[-1], 0, x.device).to(x.dtype)


def ways(bits: int) -> dict[str, Codec]:
    """What the lesson compares at so many bits a code."""
    return {
        "by token": Quantize(bits, "token", 32),
        "rotated": Hadamard(Quantize(bits, "token", 32)),
        "rotated, one scale": Hadamard(Quantize(bits, "token", None)),
        "rotated, codebook": TurboQuant(bits),
        "by channel": Quantize(bits, "channel", 32),
    }


def compared(x: Tensor, bits: Sequence[int] = BITS) -> dict[str, list[tuple[float, float]]]:
    """(bits a number with everything counted, relative error) of each way at each number of bits."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways(4)}
    for b in bits:
        for name, codec in ways(b).items():
            found[name].append((bits_per_number(codec, x), error(codec, x)))
    return found


# --- codebooks --------------------------------------------------------------------------------------------


def coordinates(x: Tensor) -> Tensor:
    """`x [..., head_dim]` with every vector at length sqrt(head_dim): its numbers have mean square 1."""
    return x / x.norm(dim=-1, keepdim=True) * math.sqrt(x.shape[-1])


@dataclass(frozen=True)
class Coded:
    """Vectors behind one setting of the widget."""

    seen: Tensor  # coordinates as they are coded, [n, head_dim]
    levels: list[float]  # in the same units; of a middling vector, where each has its own
    error: float  # relative
    bits: float  # a number, with scales


def coded(x: Tensor, rotate: bool, codebook: bool, bits: int) -> Coded:
    """`x [n, head_dim]`, one scale or length a vector: evenly spaced levels, or the normal's best ones."""
    turned = rotated(x) if rotate else x
    dim = x.shape[-1]
    if codebook:
        length = turned.norm(dim=-1, keepdim=True).to(torch.float16).to(x.dtype)
        levels = torch.tensor(lloyd_max(bits), dtype=x.dtype, device=x.device)
        code = torch.bucketize(turned / length * math.sqrt(dim), (levels[1:] + levels[:-1]) / 2)
        back, cost = levels[code] * length / math.sqrt(dim), bits + 16 / dim
        shown = levels.tolist()
    else:
        codec = Quantize(bits, "token", None)
        packed = codec.encode(turned[None, None])
        back, cost = codec.decode(packed, x.dtype)[0, 0], bits + 32 / dim
        unit = math.sqrt(dim) / turned.norm(dim=-1)
        low, step = ((packed[name].flatten().to(x.dtype) * unit).median() for name in ("minimum", "scale"))
        shown = [float(low + i * step) for i in range(2**bits)]
    off = float((back - turned).norm() / turned.norm())
    return Coded(coordinates(turned), shown, off, cost)


# --- chunks -----------------------------------------------------------------------------------------------


def in_chunks(lm: Decoder, codec: CodecPair, ids: Tensor, size: int) -> Tensor:
    """Logits `[tokens, vocab]` of one text `ids [1, tokens]` that comes `size` tokens at a time."""
    cache = kvlab.Cache(lm, codec=codec)
    return torch.cat([lm(part, cache)[0] for part in ids.split(size, dim=1)])


@dataclass(frozen=True)
class Apart:
    """Two ways to take the same text."""

    largest: float  # difference of any logit
    kl: float  # mean, nats a token
    words: int  # positions whose likeliest next token differs


def apart(one: Tensor, other: Tensor) -> Apart:
    """How far two `[tokens, vocab]` are from one another."""
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return Apart(float((one - other).abs().max()), float(kl), int((one.argmax(-1) != other.argmax(-1)).sum()))


# --- packed attention -------------------------------------------------------------------------------------


class Counted(Quantize):
    """A quantizer that remembers the most tokens it has decoded at a time."""

    most = 0

    def decode(self, packed: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        x = super().decode(packed, dtype)
        self.most = max(self.most, x.shape[2])
        return x


def decoded_at_once(lm: Decoder, ids: Tensor, blockwise: int | None) -> tuple[Tensor, int]:
    """Logits of the last of `ids [1, tokens]` over 4-bit entries, and the most tokens decoded at a time."""
    codec = Counted(4, "token", min(32, lm.config.head_dim))
    cache = kvlab.Cache(lm, codec=codec, blockwise=blockwise)
    lm(ids[:, :-1], cache, last_only=True)
    codec.most = 0
    return lm(ids[:, -1:], cache)[0, -1], codec.most


def peaks(run: Recorded, codec: str, blockwise: int | None) -> list[tuple[int, float]]:
    """(tokens, MB that a step holds beyond the cache) as recorded."""
    rows = run.select(codec=codec, blockwise=blockwise)
    return [(row["tokens"], row["peak_extra_bytes"] / 1e6) for row in rows]


def slower(run: Recorded, codec: str, blockwise: int | None, than: str) -> list[tuple[int, float]]:
    """(tokens, how many times the step took: than "exact" or "decode_all"), medians over the rounds."""
    return [
        (row["tokens"], median_high(row[f"over_{than}"]))
        for row in run.select(codec=codec, blockwise=blockwise)
    ]


# --- beside transformers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A recorded cache on five texts."""

    kl: Interval
    share: float  # of the full cache's bytes
    slower: float  # times a full cache's step


def peer(run: Recorded, cache: str) -> Peer:
    """One cache of the record beside transformers'."""
    rows = run.select(cache=cache)
    share = sum(row["bytes"] for row in rows) / sum(row["full_bytes"] for row in rows)
    return Peer(
        geometric([row["kl"] for row in rows]), share, median_high([row["step_over_full"] for row in rows])
    )


def peer_table(run: Recorded) -> str:
    """A line for each cache of the record."""
    lines = []
    for name in dict.fromkeys(row["cache"] for row in run.rows):
        found: Any = peer(run, name)
        lines.append(
            f"{name:>13}: {found.share:.0%} of the bytes, KL {found.kl.mean:.3f} "
            f"({found.kl.low:.3f} … {found.kl.high:.3f}), a step {found.slower:.1f} × as long"
        )
    return "\n".join(lines)
