"""Codecs that learn from text, for the quality bench: from other stretches than those they are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor

from kvlab.codecs import Chain, Codec, ErrorBounded, Huffman, Lexico, LowRank, OwnBasis, Quantize
from kvlab.codecs.base import Stream
from kvlab.codecs.calibrate import entries
from kvlab.measure.quality_texts import _tokens

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

PIECES, PIECE, RESIDUAL, SINK = 8, 256, 32, 4
_seen: WeakKeyDictionary[Decoder, dict[Any, Any]] = WeakKeyDictionary()


def calibration_ids(lm: Decoder, pieces: int = PIECES, tokens: int = PIECE) -> list[int]:
    """Some of the corpus, from between the stretches that are judged: the middle of each of `pieces` parts.

    With 5 offsets of 1,280 tokens no token is in both.
    """
    start, text = _tokens(lm)
    space = len(text) // pieces
    middle = [text[i * space + space // 2 : i * space + space // 2 + tokens] for i in range(pieces)]
    return [*start, *(id for piece in middle for id in piece)]


def calibrated(lm: Decoder, plain: bool = True) -> list[tuple[Tensor, Tensor]]:
    """Keys and values on that text, `[kv_heads, tokens, head_dim]` a layer; computed once for each model."""
    kept = _seen.setdefault(lm, {})
    if plain not in kept:
        kept[plain] = entries(lm, calibration_ids(lm), plain)
    found: list[tuple[Tensor, Tensor]] = kept[plain]
    return found


def low_rank(
    lm: Decoder, keys: int | None, values: int | None, sink: int = SINK, rotated: bool = False
) -> tuple[Codec | None, Codec | None]:
    """Bases of these ranks for keys and values; None: exact."""

    def learn(rank: int | None, stream: Stream) -> Codec | None:
        pairs = calibrated(lm, not rotated)
        return rank and LowRank.learn(pairs, rank, None, [stream], RESIDUAL, sink, rotated) or None

    return learn(keys, "keys"), learn(values, "values")


def chained(pair: Sequence[Codec | None], second: Codec) -> tuple[Codec | None, Codec | None]:
    """`second` behind both."""
    keys, values = (first and Chain(first, second) for first in pair)
    return keys, values


def own_basis(keys: int, values: int) -> tuple[Codec, Codec]:
    """A basis of the text's own in every 256 tokens."""
    return OwnBasis(keys, 256, RESIDUAL, SINK), OwnBasis(values, 256, RESIDUAL, SINK, plain_keys=False)


def lexico(lm: Decoder, sparsity: int) -> Codec:
    """Dictionaries of 512 atoms."""
    return Lexico.learn(calibrated(lm), sparsity, residual=RESIDUAL)


def bounded(bound: float, huffman: bool = False) -> tuple[Codec, Codec]:
    """Keys by channel of 64 tokens, values by token; and real Huffman streams of 128 tokens behind both."""
    keys = ErrorBounded(bound, "channel", 64, RESIDUAL, SINK)
    values = ErrorBounded(bound, "token", 64, RESIDUAL, SINK)
    if not huffman:
        return keys, values
    return Chain(keys, Huffman(keys.bits, 2)), Chain(values, Huffman(values.bits, 128))


def low_rank_four_bits(lm: Decoder, keys: int, values: int) -> tuple[Codec | None, Codec | None]:
    """Low rank, and its coordinates in 4 bits: one scale and minimum a token."""
    return chained(low_rank(lm, keys, values), Quantize(4, "token", None))
