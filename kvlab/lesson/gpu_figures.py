"""What `kvlab bench gpu` has recorded, drawn; on a learner's GPU the same is measured, and drawn as stars.

    gpu = lesson.recorded("gpu-pages", gpu=True)
    gpu_figures.pages(gpu, gpu_figures.live("pages"))

Where there is neither a record nor a GPU, a figure is the sentence that nothing was measured.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kvlab.measure.gpu import Plan, Run, full_plan, run_parts
from kvlab.measure.report import read_report

from .recorded import NotMeasured, Recorded
from .session import device
from .style import COLOURS, Drawing, drawing, styled

Row = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: which rows, what across, what up, and which of a row's values names its line."""

    x: str
    x_label: str
    y: Callable[[Row], float]
    y_label: str
    name: str
    where: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    def points(self, rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
        """(x, y) of every line, in order of x."""
        found: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if all(row.get(key) == value for key, value in self.where.items()):
                found.setdefault(row[self.name], []).append((row[self.x], self.y(row)))
        return {name: sorted(points) for name, points in found.items()}


def live(part: str) -> Recorded | None:
    """This part of `bench gpu`, a few points of it, measured on this machine's GPU; None: there is none."""
    if not device().startswith("cuda"):
        return None
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        return measure(part, _plan(), Path(folder))


def measure(part: str, plan: Plan, folder: Path) -> Recorded:
    """Run one part of `bench gpu` into `folder`."""
    from kvlab.measure.gpu_parts import PARTS

    run = Run(plan, folder, "measured in a lesson")
    run_parts(run, {part: PARTS[part]}, progress=lambda text: None)
    return Recorded(f"gpu-{part}", read_report(folder / f"gpu-{part}.json"))


def _plan() -> Plan:
    """Points that fit a GPU of a few gigabytes."""
    plan = full_plan(quick=True)
    return dataclasses.replace(plan, mha=plan.gqa, kernel_points=((8192, 1), (32_768, 1)))


def steps(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Milliseconds of a decode step against the context, every path, one sequence."""
    panel = Panel("context", "tokens before the step", _ms, "time of one step (ms)", "label", {"batch": 1})
    return _drawn(run, here, [panel], "time of a decode step on a GPU against the context, path by path")


def packed(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Microseconds of one layer's attention over packed entries, against SDPA over 16 bits."""
    alt = "time of attention over packed entries on a GPU against their number"
    return _drawn(run, here, _by_batch(run or here), alt)


def pages(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Microseconds of one layer's attention over chosen pages, against SDPA over everything."""
    alt = "time of attention over chosen pages on a GPU against the number of entries"
    return _drawn(run, here, _by_batch(run or here), alt)


def prompts(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Milliseconds of one layer's prompt under fixed patterns, against causal attention."""
    panel = Panel("tokens", "tokens of the prompt", _ms, "time of one layer (ms)", "way")
    return _drawn(run, here, [panel], "time of a prompt's attention on a GPU, pattern by pattern")


def windows(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Bytes held and milliseconds of a step across the window, hybrid against all full."""
    panels = [
        Panel("tokens", "tokens", lambda row: row["stored_bytes"] / 1e6, "stored (MB)", "store"),
        Panel("tokens", "tokens", _ms, "time of one step (ms)", "store"),
    ]
    return _drawn(
        run, here, panels, "bytes and time of a step on a GPU across the window, hybrid and all full"
    )


def growth(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Appending token by token: milliseconds in all, and the most that PyTorch had reserved."""
    whats: list[tuple[str, Callable[[Row], float]]] = [
        ("all appends (ms)", lambda row: 1e3 * row["total_seconds"]),
        (
            "reserved at most (GB)",
            lambda row: (row["gpu_peak_reserved"] or 0) / 1e9,
        ),  # a CPU reserves nothing
    ]
    alt = "time and reserved memory of a growing cache on a GPU: copying, doubling, preallocated"
    return _bars(run, here, whats, lambda row: row["store"].partition(" ")[0], alt)


def together(run: Recorded | NotMeasured, here: Recorded | None = None) -> Drawing | NotMeasured:
    """Several knobs on one long cache: bytes held, bytes that a step reads, and its time."""
    whats: list[tuple[str, Callable[[Row], float]]] = [
        ("held (GB)", lambda row: row["bytes"]["stored"] / 1e9),
        ("read by a step (GB)", lambda row: row["bytes"]["read"] / 1e9),
        ("time of one step (ms)", _ms),
    ]
    alt = "bytes held, bytes read and time of a step on a GPU: four bits, an eviction, a selection, and all"
    return _bars(run, here, whats, lambda row: row["way"], alt)


@styled
def _bars(
    run: Recorded | NotMeasured, here: Recorded | None, whats: Sequence[tuple[str, Callable[[Row], float]]],
    name: Callable[[Row], str], alt: str,
) -> Drawing | NotMeasured:  # fmt: skip
    """A bar for each row of the record, one pair of axes for each of `whats`; stars were measured here."""
    if isinstance(run, NotMeasured) and here is None:
        return run
    recorded, measured = run.rows if run else [], here.rows if here else []
    height = 1.3 + 0.3 * max(len(recorded), len(measured))
    figure, axes = drawing(1.5 + 2.6 * len(whats), height, columns=len(whats), alt=alt, sharey=True)
    for ax, (label, value) in zip(axes, whats, strict=True):
        ax.barh([name(row) for row in recorded], [value(row) for row in recorded], color=COLOURS[0])
        if measured:
            names, values = [name(row) for row in measured], [value(row) for row in measured]
            ax.plot(values, names, "*", color=COLOURS[1], markersize=13)
        ax.set_xlabel(label)
    figure.suptitle(_caption(run, here), fontsize=8)
    return figure


@styled
def _drawn(
    run: Recorded | NotMeasured, here: Recorded | None, panels: Sequence[Panel], alt: str
) -> Drawing | NotMeasured:
    """The panels side by side, axes logarithmic: lines are the record, stars were measured here."""
    if isinstance(run, NotMeasured) and here is None:
        return run
    recorded, measured = run.rows if run else [], here.rows if here else []
    names = list(dict.fromkeys(name for p in panels for name in p.points([*recorded, *measured])))
    looks = {name: _look(i) for i, name in enumerate(names)}
    figure, axes = drawing(1.0 + 3.1 * len(panels), 4.0, columns=len(panels), alt=alt)
    for ax, panel in zip(axes, panels, strict=True):
        for rows, marker, size in ((recorded, "o", 4), (measured, "*", 12)):
            for name, points in panel.points(rows).items():
                look = looks[name] if rows is recorded else looks[name] | {"linestyle": ""}
                ax.plot(*zip(*points, strict=True), marker=marker, markersize=size, label=name, **look)
        ax.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label, title=panel.title)
    lines = {str(line.get_label()): line for ax in axes for line in reversed(ax.lines)}
    handles = [lines[name] for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(_caption(run, here), fontsize=8)
    return figure


def _by_batch(run: Recorded | NotMeasured | None) -> list[Panel]:
    """One panel a batch, of the shape with fewer KV heads, which comes last."""
    if not isinstance(run, Recorded):
        return []
    shape = run.rows[-1]["shape"]
    return [
        Panel("slots", "entries", lambda row: 1e6 * row["median"], "one layer's attention (µs)", "way",
              {"batch": batch, "shape": shape}, f"batch {batch}")
        for batch in sorted({row["batch"] for row in run.rows})
    ]  # fmt: skip


def _caption(run: Recorded | NotMeasured, here: Recorded | None) -> str:
    """Device, date and versions of the record, and what the stars are."""
    said = [run.caption] if run else []
    if here is not None:
        said.append(f"Stars: measured here, on {here.report.device}.")
    return "\n".join(said)


def _look(i: int) -> dict[str, Any]:
    """The look of line `i`: when the colours are used up, dashed."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": "-" if i < len(COLOURS) else "--"}


def _ms(row: Row) -> float:
    return float(1e3 * row["median"])
