"""How a store grows: bytes copied, bytes held and the time of every append, token by token; no model around.

Used by `bench growth` (any device) and by the part `growth` of `bench gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import torch

from kvlab.cache import Cache
from kvlab.measure.bytes import cache_figures
from kvlab.measure.clock import Timing, once
from kvlab.measure.gpu import Run, free_memory, memory_now
from kvlab.measure.report import Report
from kvlab.measure.tables import gigabytes, table
from kvlab.model.config import Config
from kvlab.stores import Dynamic, Static, Store
from kvlab.stores.buffer import Growing
from kvlab.stores.dynamic import DynamicLayer
from kvlab.zoo.shapes import SHAPES

CONCATENATION = "concatenation (growth 1.0)"
DOUBLING = "doubling (growth 2.0)"
PREALLOCATED = "preallocated (static)"
WAYS: dict[str, Callable[[int], Store]] = {
    CONCATENATION: lambda capacity: Dynamic(growth=1.0),
    DOUBLING: lambda capacity: Dynamic(growth=2.0),
    PREALLOCATED: lambda capacity: Static(capacity),
}


def copied_tokens(way: str, before: int, new: int) -> int:
    """The theory: how many tokens' entries are moved while `new` tokens are appended one by one.

    `before` tokens came as one chunk. Concatenation moves all that is there at every token. Doubling moves
    n tokens when n fill the buffer, so before · (1 + 2 + 4 + …).
    """
    if way == CONCATENATION:
        return new * before + new * (new - 1) // 2
    moved, room = 0, before
    while way == DOUBLING and room < before + new:
        moved, room = moved + room, 2 * room
    return moved


@dataclass
class Growth:
    """What was counted while tokens were appended one by one; bytes of keys and values of all layers."""

    seconds: Timing = field(default_factory=Timing)
    copied: list[int] = field(default_factory=list)  # after each token, since the start
    stored: list[int] = field(default_factory=list)
    allocated: list[int] = field(default_factory=list)
    peak: int = 0  # the most that was held at one moment: a buffer that moves exists twice


def shell(config: Config, dtype: torch.dtype, device: torch.device) -> SimpleNamespace:
    """What a cache asks of a model: its shape. There are no weights."""
    return SimpleNamespace(config=config, dtype=dtype, device=device)


def grow(cache: Cache, new: int) -> Growth:
    """Append `new` tokens of random keys and values, one by one."""
    found, copied = Growth(), 0
    for _ in range(new):
        held, buffers = cache.allocated_bytes, _buffers(cache)
        old = [(_address(b), b.nbytes, _room(b)) for b in buffers]
        found.peak = max(found.peak, held)
        found.seconds.seconds.append(once(partial(append, cache, 1), cache.device))
        for buffer, (address, nbytes, room) in zip(buffers, old, strict=True):
            if _address(buffer) != address:  # moved: for a moment both were there
                copied += nbytes
                found.peak = max(found.peak, held + _room(buffer))
                held += _room(buffer) - room
        found.copied.append(copied)
        found.stored.append(cache.nbytes)
        found.allocated.append(cache.allocated_bytes)
    return found


def append(cache: Cache, tokens: int) -> None:
    """`tokens` tokens of random keys and values, as a forward call would bring them."""
    c, device = cache.config, cache.device
    step = cache.begin(torch.zeros(1, tokens, dtype=torch.int64, device=device))
    k = torch.randn(1, c.num_key_value_heads, tokens, c.head_dim, device=device, dtype=cache.dtype)
    for layer in cache.layers:
        layer.settle(k, None, layer.append(k, k, step), step)
    cache.commit(step)


def record_growth(
    lm: SimpleNamespace, points: Iterable[tuple[int, int]], report: Report, **more: object
) -> str:
    """One row a way and point (tokens that come as one chunk, tokens then appended one by one)."""
    for before, new in points:
        for way, store in WAYS.items():
            cache = Cache(lm, store=store(before + new))  # type: ignore[arg-type]
            append(cache, before)
            free_memory()
            start = memory_now(lm.device)["gpu_allocated"]
            found = grow(cache, new)
            report.add(
                store=way,
                **more,
                tokens_before=before,
                tokens_appended=new,
                **_timed(found.seconds),
                copied_bytes=found.copied[-1],
                theory_copied_bytes=copied_tokens(way, before, new) * (cache.nbytes // (before + new)),
                **cache_figures(cache),
                peak_bytes=found.peak,
                gpu_allocated_before=start,
                **memory_now(lm.device),
            )
            del cache
            free_memory()
    return growth_table(report)


def _timed(each: Timing, most: int = 256) -> dict[str, object]:
    """At most so many samples: where there were more appends, a sample is the mean of several in a row."""
    size = -(-len(each.seconds) // most)
    groups = [each.seconds[i : i + size] for i in range(0, len(each.seconds), size)]
    return {
        "appends_a_sample": size,
        **Timing([sum(group) / len(group) for group in groups]).row(),
        "slowest": max(each.seconds),
        "total_seconds": sum(each.seconds),
    }


def growth_part(run: Run, report: Report) -> str:
    """The part of `bench gpu`: one point, on the shape of a large model."""
    plan = run.plan
    return record_growth(shell(SHAPES[plan.mha], plan.dtype, plan.device), [plan.growth], report)


def growth_table(report: Report) -> str:
    """Copied, slowest and held, way by way."""
    rows = [
        {
            "store": row["store"],
            "tokens": f"{row['tokens_before']} + {row['tokens_appended']}",
            "copied GB": row["copied_bytes"] / 1e9,
            "total s": row["total_seconds"],
            "median ms/token": row["median"] * 1e3,
            "slowest ms": row["slowest"] * 1e3,
            "stored GB": row["stored_bytes"] / 1e9,
            "allocated GB": row["allocated_bytes"] / 1e9,
            "peak GB": row["peak_bytes"] / 1e9,
            "GPU peak GB": gigabytes(row["gpu_peak"]),
            "reserved GB": gigabytes(row["gpu_reserved"]),
        }
        for row in report.rows
    ]
    return table(rows)


def _buffers(cache: Cache) -> list[Growing]:
    """Every buffer that can grow; a static store has none."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    streams = [stream for layer in layers for stream in (layer.keys, layer.values)]
    return [b for stream in streams for b in stream.buffers() if b.data is not None]


def _address(buffer: Growing) -> int:
    return 0 if buffer.data is None else buffer.data.data_ptr()


def _room(buffer: Growing) -> int:
    """Bytes allocated for a buffer, used or not."""
    return 0 if buffer.data is None else buffer.data.untyped_storage().nbytes()
