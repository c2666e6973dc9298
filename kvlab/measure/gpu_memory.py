"""The parts of `bench gpu` about memory: curves, and a very long text really held."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from kvlab.cache import Cache
from kvlab.compiled import CompiledStep, why_not
from kvlab.measure.bytes import cache_bytes, cache_figures, decode_bytes, weight_bytes
from kvlab.measure.clock import Timing, once, synchronize
from kvlab.measure.gpu import Run, free_memory, memory_now
from kvlab.measure.growth import append
from kvlab.measure.report import Report
from kvlab.measure.tables import gigabytes, table
from kvlab.stores import Dynamic, Static

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def memory(run: Run, report: Report) -> str:
    """What the GPU holds after a prompt and after one more token, against tokens and batch."""
    plan = run.plan
    for shape in dict.fromkeys((plan.mha, plan.gqa)):
        lm = run.model(shape)
        for tokens, batch in plan.memory_points:
            if cache_bytes(lm.config, tokens, lm.dtype.itemsize, batch) > plan.memory_limit:
                continue
            for store in ("dynamic", "static"):
                try:
                    _curve_point(lm, shape, store, tokens, batch, report)
                except torch.OutOfMemoryError as error:
                    report.fail(f"{shape}, {store}, {tokens} tokens, batch {batch}", error)
                free_memory()
        del lm
        free_memory()
    names = ("logical_bytes", "stored_bytes", "allocated_bytes", "gpu_allocated", "gpu_peak", "gpu_reserved")
    rows = [
        {key: row[key] for key in ("shape", "store", "tokens", "batch", "moment")}
        | {name.removesuffix("_bytes") + " GB": gigabytes(row[name]) for name in names}
        for row in report.rows
    ]
    return table(rows)


def _curve_point(lm: Decoder, shape: str, store: str, tokens: int, batch: int, report: Report) -> None:
    cache = Cache(lm, store=Static(tokens + 64, batch) if store == "static" else Dynamic())
    ids = torch.randint(0, lm.config.vocab_size, (batch, tokens), device=lm.device)
    with torch.no_grad():
        for moment, new in (("after the prompt", ids), ("after one more token", ids[:, :1])):
            lm(new, cache, last_only=True)
            synchronize(lm.device)
            report.add(
                shape=shape,
                store=store,
                tokens=tokens,
                batch=batch,
                moment=moment,
                weight_bytes=weight_bytes(lm.config, lm.dtype.itemsize),
                **cache_figures(cache),
                **memory_now(lm.device),
            )


def hold(run: Run, report: Report) -> str:
    """A very long text held in one static cache, then decoded; how it was filled is recorded."""
    plan = run.plan
    lm = run.model(plan.mha)
    steps, rounds = (2, 2) if plan.quick else (4, 4)
    capacity = -(-(plan.hold_tokens + 64) // 64) * 64
    report.parameters |= {"model": plan.mha, "capacity": capacity, "ceilings": vars(run.ceilings)}
    cache = Cache(lm, store="static", capacity=capacity)
    report.parameters |= _fill(lm, cache, plan.hold_tokens, plan.hold_chunk, plan.hold_seconds)
    report.save()
    figures = {**cache_figures(cache), **memory_now(lm.device)}
    needed = decode_bytes(lm.config, plan.hold_tokens, lm.dtype.itemsize).total
    for label in ("static, eager", "static, compiled"):
        if label == "static, compiled" and (lm.device.type != "cuda" or why_not(cache)):
            continue  # on a CPU this part only shows that it works
        try:
            timing = _steps(lm, cache, label, steps, rounds)
        except Exception as error:
            report.fail(label, error)
            continue
        report.add(
            model=plan.mha,
            tokens=plan.hold_tokens,
            path=label,
            **timing.row(),
            needed_bytes=needed,
            copy_bandwidth_fraction=run.ceilings.copy_bound(needed) / timing.median,
            **figures,
        )
    rows = [
        {
            "path": row["path"],
            "tokens": row["tokens"],
            "stored GB": row["stored_bytes"] / 1e9,
            "ms/step": row["median"] * 1e3,
            "% of copy": 100 * row["copy_bandwidth_fraction"],
            "GPU in use GB": gigabytes(row["gpu_allocated"]),
        }
        for row in report.rows
    ]
    how = {name: report.parameters[name] for name in ("filled", "prefilled_tokens", "prefill_seconds")}
    return f"{table(rows)}\n{how}"


def _fill(lm: Decoder, cache: Cache, tokens: int, chunk: int, seconds: float) -> dict[str, Any]:
    """Prefill random ids in chunks while there is time; write random keys and values for the rest.

    Over a static store every chunk costs the same, so the first timed one tells whether all fit.
    """
    start, taken = time.monotonic(), 0
    chunks: list[float] = []
    with torch.no_grad():
        while taken < tokens:
            size = min(chunk, tokens - taken)
            if len(chunks) > 1 and time.monotonic() - start + chunks[-1] > seconds:
                break
            ids = torch.randint(0, lm.config.vocab_size, (1, size), device=lm.device)
            try:
                chunks.append(once(partial(lm, ids, cache, last_only=True), lm.device))
            except torch.OutOfMemoryError:  # attention that holds its whole map
                free_memory()
                break
            taken += size
        rest = tokens - taken
        if rest:
            for part in range(0, rest, 4096):
                append(cache, min(4096, rest - part))
    how = "chunked prefill of random ids" if not rest else "prefill, then random keys and values written"
    return {
        "filled": how,
        "prefilled_tokens": taken,
        "written_tokens": rest,
        "chunk": chunk,
        "chunk_seconds": chunks,
        "prefill_seconds": time.monotonic() - start,
    }


def _steps(lm: Decoder, cache: Cache, label: str, steps: int, rounds: int) -> Timing:
    """Seconds of one decode step, from the same place again and again."""
    held = cache.used
    step = CompiledStep(lm, cache) if "compiled" in label else lambda ids: lm(ids, cache, last_only=True)
    token = torch.zeros(1, 1, dtype=torch.int64, device=lm.device)

    def several() -> None:
        for _ in range(steps):
            step(token)

    timing = Timing()
    with torch.no_grad():
        several()
        cache.crop(held)
        for _ in range(rounds):
            timing.seconds.append(once(several, lm.device) / steps)
            cache.crop(held)
    return timing
