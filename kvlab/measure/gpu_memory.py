"""The parts of `bench gpu` about memory: curves, a very long text really held, and how a store grows."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from kvlab.cache import Cache
from kvlab.compiled import CompiledStep, why_not
from kvlab.measure.bytes import cache_bytes, decode_bytes, weight_bytes
from kvlab.measure.clock import Timing, once, synchronize
from kvlab.measure.gpu import Run, free_memory, memory_now
from kvlab.measure.report import Report
from kvlab.measure.tables import gigabytes, table
from kvlab.stores import Dynamic, Static, Store
from kvlab.stores.buffer import Growing
from kvlab.stores.dynamic import DynamicLayer
from kvlab.zoo import SHAPES

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


def cache_figures(cache: Cache) -> dict[str, int]:
    """The three honest figures of a cache."""
    return {
        "logical_bytes": cache.logical_bytes,
        "stored_bytes": cache.nbytes,
        "allocated_bytes": cache.allocated_bytes,
    }


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
            _write_random(lm, cache, rest)
    how = "chunked prefill of random ids" if not rest else "prefill, then random keys and values written"
    return {
        "filled": how,
        "prefilled_tokens": taken,
        "written_tokens": rest,
        "chunk": chunk,
        "chunk_seconds": chunks,
        "prefill_seconds": time.monotonic() - start,
    }


def _write_random(lm: Decoder, cache: Cache, tokens: int, chunk: int = 4096) -> None:
    """Give the cache `tokens` more tokens whose keys and values are random numbers."""
    c = lm.config
    while tokens:
        size = min(chunk, tokens)
        step = cache.begin(torch.zeros(1, size, dtype=torch.int64, device=lm.device))
        for layer in cache.layers:
            k, v = (
                torch.randn(1, c.num_key_value_heads, size, c.head_dim, device=lm.device, dtype=lm.dtype)
                for _ in range(2)
            )
            view = layer.append(k, v, step)
            layer.settle(k, None, view, step)
        cache.commit(step)
        tokens -= size


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


def growth(run: Run, report: Report) -> str:
    """Appending one token after the other to stores that copy, double, or never grow; no model around."""
    plan = run.plan
    before, new = plan.growth
    device = plan.device
    shell = SimpleNamespace(config=SHAPES[plan.mha], dtype=plan.dtype, device=device)  # has no weights
    stores: dict[str, Store] = {
        "concatenation (growth 1.0)": Dynamic(growth=1.0),
        "doubling (growth 2.0)": Dynamic(growth=2.0),
        "preallocated (static)": Static(capacity=before + new),
    }
    for label, store in stores.items():
        cache = Cache(shell, store=store)  # type: ignore[arg-type]
        _append(cache, before)
        free_memory()
        start = memory_now(device)["gpu_allocated"]
        seconds, copied = Timing(), 0
        for _ in range(new):
            old = _buffers(cache)
            seconds.seconds.append(once(partial(_append, cache, 1), device))
            copied += sum(nbytes for buffer, address, nbytes in old if _address(buffer) != address)
        report.add(
            store=label,
            tokens_before=before,
            tokens_appended=new,
            **seconds.row(),
            total_seconds=sum(seconds.seconds),
            copied_bytes=copied,
            gpu_allocated_before=start,
            **cache_figures(cache),
            **memory_now(device),
        )
        del cache
        free_memory()
    rows = [
        {
            "store": row["store"],
            "copied GB": row["copied_bytes"] / 1e9,
            "total s": row["total_seconds"],
            "median ms/token": row["median"] * 1e3,
            "slowest ms": max(row["seconds"]) * 1e3,
            "allocated GB": row["allocated_bytes"] / 1e9,
            "stored GB": row["stored_bytes"] / 1e9,
            "peak GB": gigabytes(row["gpu_peak"]),
            "reserved GB": gigabytes(row["gpu_reserved"]),
        }
        for row in report.rows
    ]
    return table(rows)


def _append(cache: Cache, tokens: int) -> None:
    """`tokens` tokens of random keys and values, as a forward call would bring them."""
    c, device = cache.config, cache.device
    step = cache.begin(torch.zeros(1, tokens, dtype=torch.int64, device=device))
    k = torch.randn(1, c.num_key_value_heads, tokens, c.head_dim, device=device, dtype=cache.dtype)
    for layer in cache.layers:
        layer.settle(k, None, layer.append(k, k, step), step)
    cache.commit(step)


def _buffers(cache: Cache) -> list[tuple[Growing, int, int]]:
    """Every growing buffer, where its tensor lies, and the bytes that a move would copy."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    streams = [stream for layer in layers for stream in (layer.keys, layer.values)]
    return [(b, _address(b), b.nbytes) for stream in streams for b in stream.buffers() if b.data is not None]


def _address(buffer: Growing) -> int:
    return 0 if buffer.data is None else buffer.data.data_ptr()
