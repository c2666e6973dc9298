"""The figures of lesson 07; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from kvlab.measure.memory import MORE, PROMPT
from kvlab.measure.outline import Outline
from kvlab.model.config import Config

from .l07 import StepPoint, batch_points, ceilings_of, read_per_token, resident
from .recorded import NotMeasured, Recorded
from .style import (
    BLUE,
    GREEN,
    INK,
    MEASURED,
    OCHRE,
    PLUM,
    QUIET,
    RUST,
    THEORY,
    Drawing,
    drawing,
    styled,
    tick,
)

KINDS = {"MHA": RUST, "GQA": BLUE, "MQA": GREEN, "MLA": PLUM}
MB, KB = 1e6, 1e3
Points = Sequence[tuple[float, float]]  # (x, bytes)


@styled
def four_curves(panels: Mapping[str, tuple[Points, Points]]) -> Drawing:
    """Bytes of a cache against one thing at a time: (x label) -> (counted points, planned points)."""
    alt = "bytes of a cache grow in a straight line with " + ", ".join(panels)
    figure, axes = drawing(8.4, 2.7, alt=alt, columns=len(panels))
    for ax, (name, (counted, planned)) in zip(axes, panels.items(), strict=True):
        ax.plot([x for x, _ in planned], [y / MB for _, y in planned], color=BLUE, **THEORY)
        ax.plot([x for x, _ in counted], [y / MB for _, y in counted], "o", color=BLUE, markersize=5)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel(name)
        _only(ax.xaxis, [x for x, _ in counted], 4)
    axes[0].set_ylabel("stored (MB)")
    axes[-1].set_title("dashed: plan", loc="right", fontsize=8.5, fontweight="normal", color=QUIET)
    return figure


@styled
def in_memory(run: Recorded, token_bytes: int) -> Drawing:
    """What the cache took of main memory, growing and preallocated, against what is stored and allocated."""
    alt = "resident memory after a prompt lies just above the stored bytes; one more token doubles what a "
    alt += "growing store has allocated, and part of that becomes resident"
    figure, axes = drawing(8.0, 3.3, alt=alt, columns=2, sharey=True)
    for ax, store in zip(axes, ("dynamic", "static"), strict=True):
        prompt, more = resident(run, store, PROMPT), resident(run, store, MORE)
        tokens = np.array([n for n, _ in prompt], dtype=float)
        ax.plot(tokens, tokens * token_bytes / MB, color=GREEN, **THEORY)
        held = [row["allocated_bytes"] for row in run.select(store=store, moment=MORE, batch=1)]
        ax.plot(tokens, np.sort(held) / MB, color=QUIET, **THEORY)
        for points, colour in ((more, RUST), (prompt, BLUE)):
            ax.plot([n for n, _ in points], [y / MB for _, y in points], color=colour, **MEASURED)
        title = "grows by doubling" if store == "dynamic" else "allocated at once"
        ax.set_title(f"{store}: {title}", fontsize=10)
        ax.set_xlabel("tokens of the prompt")
        ax.set_ylim(bottom=0)
        _only(ax.xaxis, tokens.tolist(), 4)
    axes[0].set_ylabel("main memory (MB)")
    names = [("stored", GREEN, "--"), ("allocated, one token later", QUIET, "--")]
    names += [("resident after the prompt", BLUE, "-"), ("resident, one token later", RUST, "-")]
    for name, colour, line in names:
        axes[0].plot([], [], color=colour, linestyle=line, label=name)
    axes[0].legend(loc="upper left", frameon=False, fontsize=8.5)
    return figure


@styled
def token_bars(models: Mapping[str, Outline], bits: float = 16) -> Drawing:
    """What a token costs in each model's cache (KB), coloured by the kind of attention."""
    sizes = [one.numbers * bits / 8 / KB for one in models.values()]
    alt = "; ".join(f"{name} {size:,.1f} KB" for name, size in zip(models, sizes, strict=True))
    figure, (ax,) = drawing(6.8, 0.9 + 0.34 * len(models), alt=f"bytes a token: {alt}")
    at = np.arange(len(models))
    ax.barh(at, sizes, 0.62, color=[KINDS[one.attention] for one in models.values()])
    for y, size, one in zip(at, sizes, models.values(), strict=True):
        text = f"{size:,.1f}  {one.attention}"
        ax.annotate(text, (size, y), (5, 0), textcoords="offset points", va="center")
    ax.set_yticks(at, list(models))
    ax.invert_yaxis()
    ax.margins(x=0.17)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"KB in the cache for one token ({bits:g} bits)")
    return figure


@styled
def roofline(
    run: Recorded | NotMeasured, points: Sequence[StepPoint], live: StepPoint | None = None
) -> Drawing | NotMeasured:
    """FLOP/s against FLOPs a byte: the machine's roof, and where the model's own steps are under it."""
    if not isinstance(run, Recorded):
        return run
    read, matmul = ceilings_of(run)
    alt = "cached steps stand far to the left, under the slope of bandwidth; naive ones to the right, under "
    figure, (ax,) = drawing(7.0, 4.0, alt=alt + "the flat roof of arithmetic")
    x = np.geomspace(0.2, max(p.intensity for p in points) * 2.5, 100)
    ax.plot(x, np.minimum(x * read, matmul) / 1e9, color=INK, linewidth=1.8)
    ridge = matmul / read
    ax.axvline(ridge, color=QUIET, linestyle=(0, (2, 3)), linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="FLOPs for each byte that must be moved", ylabel="GFLOP/s")
    colours = {"naive": RUST, "cached": BLUE, "compiled": GREEN}
    for point in points:
        kind = point.label.split(",")[0]
        ax.plot(point.intensity, point.rate / 1e9, "o", color=colours.get(kind, OCHRE), markersize=6)
    note: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
    for kind, colour in colours.items():
        mine = [p for p in points if p.label.split(",")[0] == kind]
        if mine:
            place = (-10, -14) if kind == "naive" else (9, 3) if kind == "compiled" else (9, -11)
            end = max(mine, key=lambda p: p.intensity)
            side = "right" if kind == "naive" else "left"
            words = kind if kind == "naive" else f"{kind} step"
            ax.annotate(words, (end.intensity, end.rate / 1e9), place, color=colour, ha=side, **note)
    if live is not None:
        ax.plot(live.intensity, live.rate / 1e9, "*", color=INK, markersize=14, markeredgecolor="white")
        ax.annotate(live.label, (live.intensity, live.rate / 1e9), (-8, -16), ha="center", **note)
    ax.annotate("bandwidth", (0.35, 0.35 * read / 1e9), (-6, 10), rotation=38, ha="center", **note)
    ax.annotate("arithmetic", (x[-1], matmul / 1e9), (0, 6), ha="right", **note)
    ax.xaxis.set_major_formatter(tick)
    rates = [point.rate for point in (*points, *([live] if live else []))]
    ax.set_ylim(min(rates) / 2e9, matmul / 1e9 * 2)
    _plain(ax.yaxis)
    return figure


@styled
def per_token(config: Config, contexts: Sequence[int], batches: Sequence[int], itemsize: int) -> Drawing:
    """Bytes that a step reads for each token it makes, against the batch: weights and cache, stacked."""
    alt = "the share of the weights shrinks with the batch; the cache of each sequence stays as it is"
    figure, axes = drawing(8.0, 3.2, alt=alt, columns=len(contexts), sharey=True)
    at = np.arange(len(batches))
    for ax, context in zip(axes, contexts, strict=True):
        parts = np.array([read_per_token(config, context, b, itemsize) for b in batches]).T / 1e9
        ax.bar(at, parts[1], 0.66, color=RUST, label="cache")
        ax.bar(at, parts[0], 0.66, bottom=parts[1], color=BLUE, label="weights")
        ax.set_xticks(at, [f"{b:,}" for b in batches])
        ax.set_title(f"{context:,} tokens each", fontsize=10)
        ax.set_xlabel("sequences in a step")
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("read for each new token (GB)")
    axes[-1].legend(frameon=False, fontsize=9, reverse=True)  # as they are stacked
    return figure


@styled
def batch_times(run: Recorded) -> Drawing:
    """Tokens a second of all sequences together, against the batch; dashed: if steps cost the same."""
    points = batch_points(run)
    alt = "tokens a second against the batch: they grow, but less than in proportion"
    figure, (ax,) = drawing(6.4, 3.2, alt=alt)
    batches = np.array([b for b, _ in points], dtype=float)
    rates = batches / np.array([s for _, s in points])
    ax.plot(batches, rates[0] * batches / batches[0], color=BLUE, **THEORY)
    ax.plot(batches, rates, color=BLUE, **MEASURED)
    ax.set(xscale="log", yscale="log", xlabel="sequences in a step", ylabel="tokens a second")
    _only(ax.xaxis, batches.tolist(), 8)
    _plain(ax.yaxis)
    ax.set_title("dashed: in proportion", loc="right", fontsize=8.5, fontweight="normal", color=QUIET)
    return figure


def _plain(axis: Any) -> None:
    """A log axis of a decade or three with plain numbers at 1, 2, 5, 10 …"""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(tick)
    axis.set_minor_locator(NullLocator())


def _only(axis: Any, values: Sequence[float], most: int) -> None:
    """Ticks at the measured places, the larger ones first where there are many."""
    shown = sorted(values)[::-1][:most]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(tick)
    axis.set_minor_locator(NullLocator())
