"""`bench decode`: the time of one decode step, every way side by side, taken in turn in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kvlab.measure.bytes import decode_bytes
from kvlab.measure.clock import Timing, alternate, once, synchronize
from kvlab.measure.flops import decode_flops, naive_flops
from kvlab.measure.paths import PATHS, Path, make_path
from kvlab.measure.peers import transformers_twin
from kvlab.measure.report import Report
from kvlab.measure.roofline import Ceilings
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

NAIVE_ROUNDS = 3  # a naive step is slow and steady: a few samples do


@dataclass(frozen=True)
class Point:
    """What is measured: `steps` steps after `context` tokens, in `batch` sequences."""

    context: int
    batch: int
    steps: int  # a sample is the mean of so many
    rounds: int
    capacity: int | None = None  # slots of each static cache; None: the fewest that do, rounded up


def decode(
    lm: Decoder, model: str, points: Sequence[Point], paths: Sequence[str], ceilings: Ceilings, report: Report
) -> None:
    """Add one row for each point and path to `report`. A path that fails is noted there, and left out."""
    twin = None
    if any(name.startswith("hf-") for name in paths):
        try:
            twin = transformers_twin(lm)
        except ImportError:
            report.notes.append("transformers is not installed: its rows are missing.")
            paths = [name for name in paths if not name.startswith("hf-")]
    # Each capacity is one more variant of transformers' forward; torch gives up at eight.
    with torch._dynamo.config.patch(recompile_limit=256):
        for point in points:
            measure_point(lm, model, point, paths, ceilings, report, twin)


def measure_point(
    lm: Decoder,
    model: str,
    point: Point,
    paths: Sequence[str],
    ceilings: Ceilings,
    report: Report,
    twin: Any = None,
) -> list[dict[str, Any]]:
    """All paths at one point: started one after the other, then timed in turn."""
    ids = prompt(lm, point)
    ready: dict[str, Path] = {}
    first: dict[str, dict[str, float]] = {}
    reference = None
    for name in sorted(paths, key=lambda n: n != "dynamic"):  # what the others' logits are compared with
        try:
            path = make_path(name, lm, twin)
            path.capacity = point.capacity
            first[name], logits = warm_up(path, ids, point)
        except Exception as error:  # the others can still be measured
            report.fail(f"{model}, {point.context} tokens, batch {point.batch}, {PATHS[name].label}", error)
            continue
        reference = logits if reference is None else reference
        first[name]["max_logit_difference"] = float((logits - reference).abs().max())
        ready[name] = path
    timings = in_turn(ready, point, lm.device)
    rows = [
        row_of(lm, model, point, name, ready[name], timings[name], ceilings) | first[name]
        for name in paths
        if name in ready
    ]
    compare(rows)
    for row in rows:
        report.add(**row)
    return rows


def prompt(lm: Decoder, point: Point) -> torch.Tensor:
    """Random ids `[batch, context]`, the same for every path and on every machine."""
    generator = torch.Generator().manual_seed(point.context)
    ids = torch.randint(0, lm.config.vocab_size, (point.batch, point.context), generator=generator)
    return ids.to(lm.device)


def warm_up(path: Path, ids: torch.Tensor, point: Point) -> tuple[dict[str, float], torch.Tensor]:
    """Prefill, the first step (which may compile), and one sample that nobody counts."""
    steps = 1 if path.naive else point.steps
    path.start(ids, steps)
    synchronize(ids.device)
    start = time.perf_counter()
    logits = path.run(1).float().cpu()
    seconds = time.perf_counter() - start
    path.rewind()
    if not path.naive:
        path.run(steps)
        path.rewind()
    return {"first_step_seconds": seconds}, logits


def in_turn(ready: dict[str, Path], point: Point, device: torch.device) -> dict[str, Timing]:
    """Seconds of a step of every path, taken in turn."""

    def sampler(path: Path) -> Any:
        steps = 1 if path.naive else point.steps

        def sample() -> float:
            seconds = once(lambda: path.run(steps), device) / steps
            path.rewind()
            return seconds

        return sample

    few = {name: sampler(path) for name, path in ready.items()}
    rounds = min(NAIVE_ROUNDS, point.rounds)
    timings = alternate(few, rounds)
    rest = {name: function for name, function in few.items() if not ready[name].naive}
    for name, timing in alternate(rest, point.rounds - rounds).items():
        timings[name].seconds += timing.seconds
    return timings


def row_of(
    lm: Decoder, model: str, point: Point, name: str, path: Path, timing: Timing, ceilings: Ceilings
) -> dict[str, Any]:
    """What is kept of one path at one point."""
    steps = 1 if path.naive else point.steps
    context = point.context + (steps + 1) // 2  # seen after the middle step of a sample
    itemsize = lm.dtype.itemsize
    needed = decode_bytes(lm.config, context, itemsize, point.batch)
    flops = decode_flops(lm.config, context, point.batch).total
    bound = ceilings.bound(needed.total, flops)
    done = naive_flops(lm.config, context, point.batch).total if path.naive else flops
    return {
        "model": model,
        "context": point.context,
        "batch": point.batch,
        "path": name,
        "label": path.label,
        **timing.row(),
        **({"capacity": point.capacity} if point.capacity else {}),
        "steps_per_sample": steps,
        "tokens_per_second": point.batch / timing.median,
        "flops": done,
        "needed_bytes": needed.total,
        "bound_seconds": bound,
        "bound_fraction": bound / timing.median,
        "copy_bandwidth_fraction": ceilings.copy_bound(needed.total) / timing.median,
        **path.cache_bytes(),
    }


def compare(rows: list[dict[str, Any]]) -> None:
    """Ratios within one point: above 1 is faster than the other side."""
    medians = {row["path"]: row["median"] for row in rows}
    for row in rows:
        row["times_fastest"] = min(medians.values()) / row["median"]
        if "hf-dynamic" in medians:
            row["times_transformers_dynamic"] = medians["hf-dynamic"] / row["median"]
        if "naive" in medians:
            row["times_naive"] = medians["naive"] / row["median"]


def decode_table(report: Report) -> str:
    """The table that is printed last."""
    rows = [
        {
            "model": row["model"],
            "context": row["context"],
            "batch": row["batch"],
            "path": row["label"],
            "ms/step": row["median"] * 1e3,
            "± quartiles": f"{(row['quartiles'][1] - row['quartiles'][0]) / 2 * 1e3:.2g}",
            "tokens/s": row["tokens_per_second"],
            "× HF dynamic": row.get("times_transformers_dynamic"),
            "× naive": row.get("times_naive"),
            "of fastest": row["times_fastest"],
            "% of bound": 100 * row["bound_fraction"],
            "% of copy": 100 * row["copy_bandwidth_fraction"],
            "1st step s": row["first_step_seconds"],
            "max Δlogit": row["max_logit_difference"],
        }
        for row in report.rows
    ]
    return table(rows)
