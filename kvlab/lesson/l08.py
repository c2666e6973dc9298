"""Lesson 08: growth counted and timed, filling a static cache, and moving into a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kvlab
from kvlab.measure.bytes import cache_bytes_per_token
from kvlab.measure.growth import (
    CONCATENATION,
    DOUBLING,
    PREALLOCATED,
    WAYS,
    Growth,
    append,
    copied_tokens,
    grow,
    shell,
)
from kvlab.model.config import Config

from .recorded import NotMeasured, Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

NAMES = {CONCATENATION: "concatenation", DOUBLING: "doubling", PREALLOCATED: "preallocated"}


def grown(config: Config, tokens: int, capacity: int | None = None) -> dict[str, Growth]:
    """Caches of this shape filled one token at a time, 1 to `tokens`, in float32: what was copied and held.

    Keys and values are random numbers: what is copied depends on the shape alone. `capacity` is that of
    the preallocated one; None: just enough.
    """
    found = {}
    for way, store in WAYS.items():
        cache = kvlab.Cache(_shell(config), store=store(capacity or tokens))
        append(cache, 1)
        found[NAMES[way]] = grow(cache, tokens - 1)
    return found


def time_append(config: Config, before: int, new: int = 16) -> dict[str, float]:
    """Median seconds of one append after `before` tokens, each way, measured here."""
    found = {}
    for way, store in WAYS.items():
        cache = kvlab.Cache(_shell(config), store=store(before + new))
        append(cache, before)
        found[NAMES[way]] = grow(cache, new).seconds.median
    return found


def theory(config: Config, name: str, tokens: int) -> int:
    """Bytes copied by the formula while `tokens` tokens arrive one by one."""
    way = next(way for way, short in NAMES.items() if short == name)
    return copied_tokens(way, 1, tokens - 1) * cache_bytes_per_token(config, 4)


def _shell(config: Config) -> Any:
    return shell(config, torch.float32, torch.device("cpu"))


# --- the recorded run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Total:
    """A whole text, token by token, as it was recorded."""

    name: str
    tokens: int
    copied: int  # bytes
    stored: int
    allocated: int
    peak: int
    seconds: float
    slowest: float  # seconds of one append


def totals(run: Recorded | NotMeasured) -> list[Total]:
    """The recorded runs from the first token to the last, each way; [] where nothing is recorded."""
    if not isinstance(run, Recorded):
        return []
    most = max(row["tokens_appended"] for row in run.rows)
    return [
        Total(
            NAMES[row["store"]],
            row["tokens_before"] + row["tokens_appended"],
            row["copied_bytes"],
            row["stored_bytes"],
            row["allocated_bytes"],
            row["peak_bytes"],
            row["total_seconds"],
            row["slowest"],
        )
        for row in run.select(tokens_appended=most)
    ]


def append_points(run: Recorded, name: str, what: str = "median") -> list[tuple[int, float]]:
    """(tokens before, seconds of one append) of one way, without the run over a whole text."""
    way = next(way for way, short in NAMES.items() if short == name)
    return [(row["tokens_before"], row[what]) for row in run.select(store=way) if row["tokens_before"] > 1]


# --- a static cache that fills ----------------------------------------------------------------------------


def needed(prompt: int, new: int) -> int:
    """Slots for a prompt and `new` generated tokens: the last of them is never fed back."""
    return prompt + new - 1


def greedy(lm: Decoder, cache: kvlab.Cache, ids: Sequence[int], new: int) -> list[int]:
    """The `new` most probable ids after `ids`; what the cache already holds comes before them."""
    given, found = list(ids), []
    for _ in range(new):
        logits = lm(torch.tensor([given], device=lm.device), cache, last_only=True)
        given = [int(logits[0, -1].argmax())]
        found += given
    return found


def enlarged(lm: Decoder, cache: kvlab.Cache, capacity: int) -> kvlab.Cache:
    """A static cache of `capacity` slots that holds what `cache` holds: one copy of what is stored.

    Made of what every step does: begin, append and settle in each layer, commit. For one unpadded text
    in exact numbers (no codec, no eviction).

    Raises:
        CacheError: `capacity` is less than what is stored.
    """
    larger = kvlab.Cache(lm, store="static", capacity=capacity)
    n = cache.used
    if not n:
        return larger
    step = larger.begin(torch.zeros(1, n, dtype=torch.int64, device=lm.device))
    for old, new in zip(cache.layers, larger.layers, strict=True):
        k, v = (stream.read()[:, :, :n] for stream in (old.keys, old.values))  # [1, kv_heads, n, head_dim]
        new.settle(k, None, new.append(k, v, step), step)
    larger.commit(step)
    return larger


def worst(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((a - b).abs().max())


def next_word(lm: Decoder, logits: Tensor) -> str:
    """The most probable token after `logits [..., vocab]`, as text."""
    return lm.tokenizer.decode([int(logits.reshape(-1, logits.shape[-1])[-1].argmax())])
