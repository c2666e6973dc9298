"""`bench packed`: one token over a packed cache, decoding a whole layer at once or a block at a time.

The cache is filled with random entries, which cost what real ones cost; the step is the model's own. The peak
is what the step allocates beyond what is there when it begins, by PyTorch's own record of every allocation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import torch

from kvlab.cache import Cache
from kvlab.codecs import KIVI, Codec, Int8
from kvlab.measure.clock import alternate, once
from kvlab.measure.growth import append
from kvlab.measure.report import Report
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

SLACK = 64  # tokens before the measured ones that are appended first, so that no buffer grows meanwhile


def codecs(dim: int) -> dict[str, Codec]:
    """What is measured, for heads of `dim` numbers."""
    group = min(32, dim)
    return {"Int8": Int8(), "KIVI-4": KIVI(4, group), "KIVI-2": KIVI(2, group)}


def peak_extra_bytes(call: partial[object], device: torch.device) -> int:
    """The most that the second of two calls holds at one moment beyond what was held before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()  # what this one allocates and leaves behind, the next one may free: both must be on record
        second = time.time_ns()
        call()
    held = before = most = 0
    results = recorded.profiler.kineto_results if recorded.profiler else None
    for event in results.events() if results else []:
        if event.name() != "[memory]":
            continue
        if event.start_ns() < second:
            before += event.nbytes()  # positive where allocated, negative where freed
            held = before
        else:
            held += event.nbytes()
            most = max(most, held - before)
    return most


def packed(lm: Decoder, name: str, tokens: int, blocks: Iterable[int], repeats: int, report: Report) -> None:
    """Rows for one context: every codec, decoded at once and in blocks; samples are taken in turn."""
    found = codecs(lm.config.head_dim)
    ways = [("exact", None), *((codec, block) for codec in found for block in (None, *blocks))]
    ids = torch.zeros(1, 1, dtype=torch.int64, device=lm.device)
    with torch.no_grad():
        caches = {}
        for codec, block in ways:
            caches[codec, block] = Cache(lm, codec=found.get(codec), blockwise=block)
            append(caches[codec, block], tokens - SLACK)
            append(caches[codec, block], SLACK)  # buffers have room from now on
        steps = {f"{codec} {block}": partial(lm, ids, caches[codec, block]) for codec, block in ways}
        peaks = {way: peak_extra_bytes(step, lm.device) for way, step in steps.items()}
        timed = alternate({way: partial(once, step, lm.device) for way, step in steps.items()}, repeats)
    base = timed["exact None"].seconds
    for codec, block in ways:
        way = f"{codec} {block}"
        seconds = timed[way].seconds
        whole = timed[f"{codec} None"].seconds
        report.add(
            model=name,
            tokens=tokens,
            codec=codec,
            blockwise=block,
            **timed[way].row(),
            over_exact=[mine / other for mine, other in zip(seconds, base, strict=True)],
            over_decode_all=[mine / other for mine, other in zip(seconds, whole, strict=True)],
            stored_bytes=caches[codec, block].nbytes,
            peak_extra_bytes=peaks[way],
        )


def packed_table(report: Report) -> str:
    """Medians; ratios are medians of the ratios within a round."""
    rows = []
    for row in report.rows:
        ratio = {key: statistics.median_high(row[key]) for key in ("over_exact", "over_decode_all")}
        shown = {"model": row["model"], "tokens": row["tokens"], "codec": row["codec"]}
        rows.append(
            shown
            | {"at a time": row["blockwise"] or "layer", "ms": row["median"] * 1e3, **ratio}
            | {"stored MB": row["stored_bytes"] / 1e6, "peak extra MB": row["peak_extra_bytes"] / 1e6}
        )
    return table(rows)
