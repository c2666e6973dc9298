"""The part of `bench gpu` about windows: Gemma 3 270M with a hybrid cache, and with one that keeps all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from kvlab.cache import Cache
from kvlab.measure.bytes import cache_figures
from kvlab.measure.clock import Timing, once
from kvlab.measure.gpu import Run, free_memory, memory_now
from kvlab.measure.report import Report
from kvlab.measure.tables import gigabytes, table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def window(run: Run, report: Report) -> str:
    """Bytes held and time of a step across the window, hybrid against all-full, alternating."""
    plan = run.plan
    lm = run.model(plan.windowed)
    report.parameters |= {"model": plan.windowed, "weights": "random", "window": lm.config.sliding_window}
    for tokens in plan.window_points:
        if run.late:
            report.notes.append(f"{tokens} tokens were not begun: the time was out")
            continue
        _point(lm, tokens, plan.rounds * plan.steps, report)
        free_memory()
    rows = [
        {
            "store": row["store"],
            "tokens": row["tokens"],
            "stored GB": row["stored_bytes"] / 1e9,
            "allocated GB": row["allocated_bytes"] / 1e9,
            "GPU in use GB": gigabytes(row["gpu_allocated"]),
            "ms/step": row["median"] * 1e3,
        }
        for row in report.rows
    ]
    return table(rows)


def _point(lm: Decoder, tokens: int, steps: int, report: Report) -> None:
    """Both stores after a prompt of random ids, and `steps` more tokens to each in turn."""
    ids = torch.randint(0, lm.config.vocab_size, (1, tokens), device=lm.device)
    caches = {name: Cache(lm, store=name) for name in ("dynamic", "hybrid")}
    timings = {name: Timing() for name in caches}
    held = {}
    with torch.no_grad():
        for name, cache in caches.items():
            lm(ids, cache, last_only=True)
            held[name] = {**cache_figures(cache), **memory_now(lm.device)}
            lm(ids[:, :1], cache, last_only=True)  # not timed: the store grows, kernels load
        for _ in range(steps):
            for name, cache in caches.items():
                step = partial(lm, ids[:, :1], cache, last_only=True)
                timings[name].seconds.append(once(step, lm.device))
    for name in caches:
        report.add(store=name, tokens=tokens, **timings[name].row(), **held[name])
