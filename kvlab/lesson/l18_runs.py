"""Lesson 18: dynamic choices through a real cache, timed, and as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import kvlab
from kvlab.eviction import Eviction
from kvlab.measure.clock import alternate, once
from kvlab.measure.sparse import DENSE, Layer, decode_ways
from kvlab.selection import Selection
from kvlab.zoo import SHAPES

from .chart_points import Point
from .l16 import PROMPT
from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

PARIS = "\n\nWhat is the special magic number for Paris? The special magic number for Paris is:"
ANSWER = "58206"


# --- through a real cache ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Catch:
    """What one more token read."""

    captured: float  # share of attention on what was read, mean over layers and heads
    read: float  # bytes read over bytes of all keys and values
    stored: float  # bytes stored over the same


def catch(lm: Decoder, ids: Tensor, selection: Selection | None) -> Catch:
    """The last of `ids [1, tokens]` comes alone; the prompt before it was read in full or by its pattern."""
    cache = kvlab.Cache(lm, selection=selection)
    lm(ids[:, :-1], cache, last_only=True)
    with kvlab.record(lm) as rec:
        lm(ids[:, -1:], cache)
    c = lm.config
    all_bytes = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4 * ids.shape[1]
    share = torch.stack([rec.captured(layer)[0].mean() for layer in sorted(rec.attention)])
    return Catch(float(share.mean()), cache.bytes_read / all_bytes, cache.nbytes / all_bytes)


def answer(lm: Decoder, selection: Selection | None = None, eviction: Eviction | None = None) -> str:
    """What the model says of a number in lesson 16's page, asked for after the page was read."""
    cache = kvlab.Cache(lm, selection=selection, eviction=eviction)
    lm(torch.tensor([lm.tokenizer.encode(PROMPT)], device=lm.device), cache, last_only=True)
    given = lm.tokenizer.encode(PARIS)
    said: list[int] = []
    for i in range(len(given) + 5):  # the question token by token, so that each chooses
        token = given[i] if i < len(given) else said[-1]
        logits = lm(torch.tensor([[token]], device=lm.device), cache)
        if i >= len(given) - 1:
            said.append(int(logits[0, -1].argmax()))
    return lm.tokenizer.decode(said)


def speeds_here(tokens: int, rounds: int) -> dict[str, float]:
    """Way -> times as fast as dense, by the medians of one layer's decode attention, on one thread."""
    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways = decode_ways(Layer(SHAPES["smollm2-135m"], tokens, 1, cpu, torch.float32))
        timed = alternate({name: partial(once, way, cpu) for name, way in ways.items()}, rounds)
    finally:
        torch.set_num_threads(threads)
    return {name: timed[DENSE].median / timing.median for name, timing in timed.items()}


# --- recorded runs ----------------------------------------------------------------------------------------

# name in the figure -> methods of the quality run, fewer bytes first
FAMILIES = {
    "oracle top-k": ("topk-2", "topk-12.5", "oracle-25"),
    "Quest": ("quest-12.5", "quest-25"),
    "SparQ": ("sparq-8-12.5", "sparq-16-12.5"),
    "SimHash": ("simhash-32-12.5", "simhash-128-12.5", "simhash-512-12.5"),
    "LSH sampling": ("lsh-6-30", "lsh-8-75"),
    "Reformer's buckets": ("buckets-16-4",),
    "Duo, heads that copy": ("duo-quarter", "duo-half"),
    "Duo, random heads": ("duo-random-half",),
    "4 sinks + recent": ("pattern-sinks-25",),
    "the same, prompt in full": ("pattern-sinks-25-decode",),
}


def families(found: Mapping[str, Point]) -> dict[str, list[Point]]:
    """The points of each family of this lesson."""
    return {name: [found[method] for method in methods] for name, methods in FAMILIES.items()}


def times_dense(run: Recorded, tokens: int) -> dict[str, float]:
    """Way of one decode step -> how many times as fast as dense attention."""
    return {row["way"]: row["times_dense"] for row in run.select(kind="decode", tokens=tokens)}
