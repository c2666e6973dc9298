"""Lesson 07: what a cache costs. Bytes counted on real caches, and steps against the machine's ceilings.

The figures are in `l07_figures`, the planner in `l07_planner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

import kvlab
from kvlab.measure.bytes import decode_bytes
from kvlab.measure.clock import measure
from kvlab.measure.flops import decode_flops
from kvlab.measure.growth import append, shell
from kvlab.measure.outline import CachedLayer, Outline, outline
from kvlab.zoo.shapes import SHAPES

from .recorded import NotMeasured, Recorded

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder


# --- bytes ----------------------------------------------------------------------------------------------


def stored(lm: Decoder, tokens: Sequence[int], batch: int = 1) -> list[int]:
    """Stored bytes of one real cache, read off after each of these numbers of tokens (ascending)."""
    cache, found = kvlab.Cache(lm), []
    for n in tokens:
        ids = torch.zeros(batch, n - cache.used, dtype=torch.int64, device=lm.device)
        lm(ids, cache, last_only=True)
        found.append(cache.nbytes)
    return found


def filled(config: Config, tokens: int, dtype: torch.dtype = torch.float32, **knobs: Any) -> kvlab.Cache:
    """A cache of this shape that holds random keys and values, on the CPU: no weights are needed."""
    cache = kvlab.Cache(shell(config, dtype, torch.device("cpu")), **knobs)  # type: ignore[arg-type]
    append(cache, tokens)
    return cache


def even(model: str | Config, bits: float = 16, weight_bits: float = 16) -> int:
    """Tokens at which one sequence's cache outweighs the weights: the first number that does."""
    one = kvlab.plan(model, 1, bits=bits, weight_bits=weight_bits)
    return one.weight_bytes // one.bytes_per_token + 1


def variants(name: str = "llama2-7b") -> dict[str, Outline]:
    """One model with four kinds of attention: only what is cached differs.

    MHA: a key and a value for each query head. GQA: 8 KV heads (as Llama 3). MQA: one. MLA: DeepSeek's
    latent of 512 numbers and a rotary key of 64, whatever the heads.
    """
    config = SHAPES[name]
    whole = outline(config)
    latent = tuple(CachedLayer(512 + 64) for _ in whole.layers)
    return {
        f"MHA, {config.num_attention_heads} KV heads": whole,
        "GQA, 8 KV heads": outline(config.replace(num_key_value_heads=8)),
        "MLA, latent 512 + 64": replace(whole, attention="MLA", layers=latent),
        "MQA, 1 KV head": outline(config.replace(num_key_value_heads=1)),
    }


# --- recorded runs --------------------------------------------------------------------------------------


def resident(run: Recorded, store: str, moment: str) -> list[tuple[int, float]]:
    """(tokens, bytes of main memory that the cache took) of one store, batch 1."""
    rows = run.select(store=store, moment=moment, batch=1)
    return sorted((row["tokens"], float(row["resident_cache_bytes"])) for row in rows)


# --- steps and ceilings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepPoint:
    """One measured decode step: FLOPs, the bytes that it must read and write, and how long it took."""

    label: str
    flops: int
    moved: int
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs for each byte: where the step stands on the roofline."""
        return self.flops / self.moved

    @property
    def rate(self) -> float:
        """FLOPs a second that it reached."""
        return self.flops / self.seconds


WAYS = {"naive": "naive", "dynamic": "cached", "compiled": "compiled"}


def step_points(run: Recorded | NotMeasured, ways: Mapping[str, str] = WAYS) -> list[StepPoint]:
    """The measured points of a `bench decode`: one for each way and context, batch 1."""
    rows = run.rows if isinstance(run, Recorded) else []
    return [
        StepPoint(f"{ways[r['path']]}, {r['context']:,}", r["flops"], r["needed_bytes"], r["median"])
        for r in rows
        if r["path"] in ways and r["batch"] == 1
    ]


def ceilings_of(run: Recorded) -> tuple[float, float]:
    """(bytes/s that can be read, FLOP/s of a large product) of the machine, from the same run."""
    best = run.report.parameters["ceilings"]
    return float(best["read"]), float(best["matmul"])


def live_step(lm: Decoder, context: int, batch: int = 1, repeats: int = 5) -> StepPoint:
    """One cached step after `context` tokens, measured here."""
    ids = torch.zeros(batch, context, dtype=torch.int64, device=lm.device)
    cache = kvlab.Cache(lm)
    lm(ids, cache, last_only=True)

    def step() -> None:
        cache.crop(context)
        lm(ids[:, :1], cache)

    seconds = measure(step, lm.device, repeats).median
    config, size = lm.config, lm.dtype.itemsize
    flops = decode_flops(config, context + 1, batch).total
    return StepPoint("here, now", flops, decode_bytes(config, context + 1, size, batch).total, seconds)


def batch_points(run: Recorded) -> list[tuple[int, float]]:
    """(sequences, median seconds of a cached step), in order of the batch."""
    return sorted((row["batch"], row["median"]) for row in run.select(path="dynamic"))


def read_per_token(config: Config, context: int, batch: int, itemsize: int) -> tuple[float, float]:
    """Bytes of weights and of cache that a step reads, for each token that it makes."""
    step = decode_bytes(config, context, itemsize, batch)
    return step.weights / batch, step.cache_read / batch
