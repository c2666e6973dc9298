"""Exact byte counts: what a model weighs, what its cache holds, and what one step has to move.

These are the fewest bytes that the mathematics needs, each once: a step that reads more (a whole static
capacity, a mask, activations) is slower than the bound that they give. What a real cache holds and has
read is counted by the cache itself (`Cache.nbytes`, `.allocated_bytes`, `.bytes_read`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.model.config import Config
from kvlab.zoo.shapes import count_weights

if TYPE_CHECKING:
    from kvlab.cache import Cache


@dataclass(frozen=True)
class StepBytes:
    """Bytes that one decode step moves between memory and processor."""

    weights: int  # read
    cache_read: int
    cache_written: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache_read + self.cache_written


def weight_bytes(config: Config, itemsize: int) -> int:
    """Bytes of all weights, `itemsize` bytes a number (float32: 4, bfloat16: 2)."""
    return count_weights(config) * itemsize


def weights_read(config: Config, itemsize: int, batch: int = 1) -> int:
    """Bytes of weights that one step reads: every matrix and norm once, whatever the batch.

    Of the embedding table that is one row a sequence, and the whole table again where it is also the
    output head (tied).
    """
    table = config.vocab_size * config.hidden_size * itemsize
    rows = batch * config.hidden_size * itemsize
    everything = weight_bytes(config, itemsize)
    return everything + rows if config.tie_word_embeddings else everything - table + rows


def cache_bytes_per_token(config: Config, itemsize: int) -> int:
    """Bytes of one token's keys and values in all layers: 2 · layers · kv_heads · head_dim · itemsize."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * itemsize


def cache_bytes(config: Config, tokens: int, itemsize: int, batch: int = 1, windows: bool = False) -> int:
    """Bytes of the keys and values of `tokens` tokens in each of `batch` sequences.

    windows: a sliding layer keeps its window only; otherwise every layer keeps everything.
    """
    slots = sum(
        tokens if window is None or not windows else min(tokens, window)
        for window in map(config.window, range(config.num_hidden_layers))
    )
    return 2 * slots * config.num_key_value_heads * config.head_dim * itemsize * batch


def decode_bytes(config: Config, context: int, itemsize: int, batch: int = 1) -> StepBytes:
    """One cached step after which `context` tokens have been seen, the step's own included.

    Read are the keys and values that its query sees, its own token's among them; a sliding layer sees its
    window.
    """
    return StepBytes(
        weights=weights_read(config, itemsize, batch),
        cache_read=cache_bytes(config, context, itemsize, batch, windows=True),
        cache_written=batch * cache_bytes_per_token(config, itemsize),
    )


def prefill_bytes(config: Config, tokens: int, itemsize: int, batch: int = 1) -> StepBytes:
    """A forward call over `tokens` tokens with nothing before them: weights once, the cache written once.

    The keys and values that it attends to come from the same call, so reading them back is not counted.
    """
    embedded = (batch * tokens - batch) * config.hidden_size * itemsize
    return StepBytes(
        weights=weights_read(config, itemsize, batch) + embedded,
        cache_read=0,
        cache_written=batch * tokens * cache_bytes_per_token(config, itemsize),
    )


def cache_figures(cache: Cache) -> dict[str, int]:
    """The three honest figures of a cache."""
    return {
        "logical_bytes": cache.logical_bytes,
        "stored_bytes": cache.nbytes,
        "allocated_bytes": cache.allocated_bytes,
    }
