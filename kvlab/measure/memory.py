"""`bench memory`: what the plan says of a cache, what the cache counts, and what the machine really gives.

On a CPU each point is taken in a fresh process, and resident memory is counted from the moment when the
model has taken one step; on a GPU the allocator's own figures are recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kvlab.cache import Cache
from kvlab.measure.bytes import cache_figures, weight_bytes
from kvlab.measure.clock import synchronize
from kvlab.measure.gpu import memory_now
from kvlab.measure.plan import plan
from kvlab.measure.report import Report
from kvlab.measure.resident import peak_bytes, resident_bytes
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

SPARE = 64  # slots of a static store beyond the prompt
PROMPT, MORE = "after the prompt", "after one more token"


@dataclass(frozen=True)
class Point:
    """A prompt of `tokens` tokens in each of `batch` sequences, then one more token."""

    model: str
    store: str
    tokens: int
    batch: int
    dtype: str
    threads: int


def memory_point(lm: Decoder, point: Point) -> list[dict[str, Any]]:
    """Three rows: the cache just made, after the prompt, after one more token."""
    capacity = point.tokens + SPARE if point.store == "static" else None
    ids = torch.zeros(point.batch, point.tokens, dtype=torch.int64, device=lm.device)
    rows = []
    with torch.no_grad():
        lm(ids[:, :2])  # what a first call sets up is not the cache's
        before = resident_bytes() if lm.device.type == "cpu" else None
        cache = Cache(lm, store=point.store, capacity=capacity, batch=point.batch)
        for moment, new in (("made", 0), (PROMPT, point.tokens), (MORE, 1)):
            if new:
                lm(ids[:, :new], cache, last_only=True)
            synchronize(lm.device)
            rows.append({**asdict(point), "moment": moment, **_figures(lm, cache, point, before)})
    return rows


def _figures(lm: Decoder, cache: Cache, point: Point, before: int | None) -> dict[str, int | None]:
    now = resident_bytes() if before is not None else None
    width = 8 * lm.dtype.itemsize
    seen = max(cache.used, 1)
    found = plan(
        lm, seen, point.batch, bits=width, weight_bits=width, store=point.store,
        capacity=cache.kind.capacity, prompt=min(point.tokens, seen),
    )  # fmt: skip
    return {
        "weight_bytes": weight_bytes(lm.config, lm.dtype.itemsize),
        "planned_stored_bytes": found.cache_bytes if cache.used else 0,
        "planned_allocated_bytes": found.allocated_bytes if cache.used or cache.kind.capacity else 0,
        **cache_figures(cache),
        "resident_bytes": now,
        "resident_cache_bytes": None if now is None or before is None else now - before,
        "resident_peak_bytes": peak_bytes() if before is not None else None,
        **memory_now(lm.device),
    }


def memory(points: list[Point], device: torch.device, report: Report) -> None:
    """Add the rows of every point. One that fails is noted, and the others go on."""
    for point in points:
        try:
            rows = _fresh(point) if device.type == "cpu" else memory_point(_model(point, device), point)
        except (RuntimeError, ValueError) as error:
            report.fail(f"{point.model}, {point.store}, {point.tokens} tokens, batch {point.batch}", error)
            continue
        for row in rows:
            report.add(**row)


def _model(point: Point, device: torch.device) -> Decoder:
    """Real weights where kvlab has them, else random ones of the shape."""
    from kvlab.zoo import load, names, random

    return (load if point.model in names() else random)(point.model, device=device, dtype=point.dtype)


def _fresh(point: Point) -> list[dict[str, Any]]:
    """The rows of a point on the CPU, from a process that has done nothing else."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "import kvlab.measure.memory as m; m.child()", json.dumps(asdict(point))]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if run.returncode:
        last = run.stderr.strip().rpartition("\n")[2] or f"exit code {run.returncode}"
        raise RuntimeError(f"the fresh process failed: {last}")
    return json.loads(run.stdout.strip().rpartition("\n")[2])


def child() -> None:
    """What the fresh process does."""
    point = Point(**json.loads(sys.argv[1]))
    torch.set_num_threads(point.threads)
    print(json.dumps(memory_point(_model(point, torch.device("cpu")), point)))


def memory_table(report: Report) -> str:
    """The table that is printed last; MB are 10^6 bytes."""
    columns = {
        "plan, stored": "planned_stored_bytes",
        "stored": "stored_bytes",
        "plan, allocated": "planned_allocated_bytes",
        "allocated": "allocated_bytes",
        "resident": "resident_cache_bytes",
        "GPU in use": "gpu_allocated",
        "GPU peak": "gpu_peak",
        "GPU reserved": "gpu_reserved",
    }
    seen = {title: name for title, name in columns.items() if any(r[name] is not None for r in report.rows)}
    rows = [
        {name: row[name] for name in ("model", "store", "tokens", "batch", "moment")}
        | {f"{title} MB": None if row[name] is None else row[name] / 1e6 for title, name in seen.items()}
        for row in report.rows
    ]
    return table(rows)
