"""The figures of lesson 08; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvlab.measure.growth import Growth

from .figures import Line, curves
from .l08 import NAMES, append_points
from .recorded import NotMeasured, Recorded
from .style import COLOURS, INK, MEASURED, QUIET, THEORY, Drawing, direct_labels, drawing, styled

LOOK = dict(zip(NAMES.values(), (COLOURS[2], COLOURS[0], COLOURS[1]), strict=True))


@styled
def copied_figure(
    found: Mapping[str, Growth], lengths: Sequence[int], theory: Mapping[str, Sequence[int]]
) -> Drawing:
    """Bytes copied so far against tokens: counted (dots), by the formula (dashed), both axes logarithmic."""
    words = "bytes copied while tokens arrive one by one: concatenation by the square, doubling in proportion"
    figure, (ax,) = drawing(6.4, 3.6, alt=f"{words}, preallocated none")
    ends = []
    for name in ("concatenation", "doubling"):
        y = np.asarray(theory[name]) / 1e6
        ax.plot(lengths, y, color=LOOK[name], **THEORY)
        at = [n for n in lengths if n - 2 < len(found[name].copied)]
        ax.plot(at, [found[name].copied[n - 2] / 1e6 for n in at], color=LOOK[name], **MEASURED)
        ends.append((float(y[-1]), name, LOOK[name]))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    shown = list(lengths)[::-2][::-1]
    ax.set_xticks(shown, [f"{n:,}" for n in shown])
    ax.set_yticks([0.1, 10, 1e3, 1e5], ["100 KB", "10 MB", "1 GB", "100 GB"])
    ax.minorticks_off()
    floor = ax.get_ylim()[0]
    ends.append((floor, "preallocated: 0", LOOK["preallocated"]))
    ax.set_xlabel("tokens so far, one by one")
    ax.set_ylabel("copied so far")
    ax.set_title(
        "dots: counted   dashed: theory", loc="right", fontsize=8.5, fontweight="normal", color=QUIET
    )
    direct_labels(ax, ends)
    return figure


@styled
def held_figure(found: Mapping[str, Growth]) -> Drawing:
    """Bytes allocated against tokens, each way; what is stored is the line that concatenation follows."""
    figure, (ax,) = drawing(
        6.4, 3.3, alt="allocated: concatenation as stored, doubling in stairs, preallocated flat"
    )
    ends = []
    for name, growth in found.items():
        y = np.asarray(growth.allocated) / 1e6
        x = np.arange(2, len(y) + 2)
        ax.plot(x, y, color=LOOK[name], linewidth=1.8, drawstyle="steps-pre")
        ends.append((float(y[-1]), name, LOOK[name]))
    stored = np.asarray(found["concatenation"].stored) / 1e6
    ax.fill_between(
        np.arange(2, len(stored) + 2), stored, color=LOOK["concatenation"], alpha=0.12, linewidth=0
    )
    ax.annotate("stored", (0.72 * len(stored), 0.3 * stored[-1]), color=INK, ha="center")
    ax.set_xlim(0, len(stored) + 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("tokens in the cache")
    ax.set_ylabel("allocated (MB)")
    direct_labels(ax, ends, gap=13)
    return figure


@styled
def append_times(
    run: Recorded | NotMeasured, live: tuple[int, Mapping[str, float]] | None = None
) -> Drawing | NotMeasured:
    """Milliseconds of one append against the tokens before it; dotted: the slowest append of doubling.

    `live` is (tokens, seconds of each way) measured here, drawn as stars.
    """
    if not isinstance(run, Recorded):
        return run
    lines = {name: append_points(run, name) for name in NAMES.values()}
    contexts = [n for n, _ in lines["doubling"]]
    figure, (ax,) = drawing(
        6.4, 3.6, alt="time of one append against the tokens before it, for the three ways"
    )
    ends = []
    for name, points in lines.items():
        y = [1e3 * s for _, s in points]
        ax.plot(contexts, y, color=LOOK[name], **MEASURED)
        ends.append((y[-1], name, LOOK[name]))
    slow = [1e3 * s for _, s in append_points(run, "doubling", "slowest")]
    ax.plot(contexts, slow, color=LOOK["doubling"], linestyle=":", linewidth=1.4, marker="^", markersize=4)
    ends.append((slow[-1], "doubling: when it moves", LOOK["doubling"]))
    for name, seconds in (live[1] if live else {}).items():
        look: dict[str, Any] = {"markersize": 14, "markeredgecolor": "white", "zorder": 5}
        ax.plot(live[0] if live else 0, 1e3 * seconds, "*", color=LOOK[name], **look)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(contexts, [f"{n:,}" for n in contexts])
    ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    ax.minorticks_off()
    ax.set_xlabel("tokens in the cache before")
    ax.set_ylabel("time of one append (ms)")
    direct_labels(ax, ends, gap=13)
    return figure


def trap_figure(errors: Sequence[float], capacity: int) -> Drawing:
    """The largest logit error at each token of a text; `capacity` tokens fit."""
    figure = curves(
        range(len(errors)),
        [Line("error", errors)],
        x_label="position of the token",
        y_label="largest logit error",
        alt=f"no error up to position {capacity - 1}, large errors from position {capacity} on",
    )
    (ax,) = figure.axes
    ax.axvline(capacity - 0.5, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.annotate(f"capacity {capacity}", (capacity - 0.7, ax.get_ylim()[1]), ha="right", va="top")
    return figure
