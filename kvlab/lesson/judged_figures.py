"""What recorded methods lose, for several lessons: a row a method, or a dot a method by its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .chart_points import Point
from .style import BLUE, COLOURS, GREEN, INK, QUIET, RUST, Drawing, dark_text, drawing, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHED: Any = {"linewidth": 1, "linestyle": (0, (4, 3))}
STAR: Any = {"marker": "*", "markersize": 13, "color": INK, "markeredgecolor": "white", "zorder": 5}
KL_TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
COSTS = {"read": "bytes read a step, % of the full cache's", "stored": "bytes stored a token"}


@styled
def rows_figure(
    groups: Mapping[str, Mapping[str, Point]], full: Point, alt: str, star: tuple[str, float] | None = None
) -> Drawing:
    """Left the KL with its 95 % interval, right the needles found; a row a method, a colour a group.

    groups: group -> row -> point; all groups have rows of the same names, or lack some. full: the full cache,
    whose needles are the dashed line. star: (method, the KL of one text measured now).
    """
    rows = list(dict.fromkeys(row for group in groups.values() for row in group))
    figure, (left, right) = drawing(8.6, 1.1 + 0.42 * len(rows), alt=alt, columns=2, sharey=True,
                                    width_ratios=(3, 2))  # fmt: skip
    shifts = np.linspace(-0.22, 0.22, len(groups)) if len(groups) > 1 else [0.0]
    for (name, group), colour, shift in zip(groups.items(), (GREEN, BLUE, RUST), shifts, strict=False):
        for row, p in group.items():
            at, k = rows.index(row) + float(shift), p.interval
            spread = [[k.mean - k.low], [k.high - k.mean]]
            left.errorbar(k.mean, at, xerr=spread, fmt="o", color=colour, capsize=3, markersize=5)
            right.plot(p.right, at, "o", color=colour, markersize=5)
            if star is not None and star[0] == p.method:
                left.plot(star[1], at, **STAR)
        if len(groups) > 1:
            first = next(iter(group.values()))
            left.text(first.interval.mean, -0.62, name, color=dark_text(colour), ha="center", fontsize=9.5)
    left.set_yticks(range(len(rows)), rows)
    left.set_ylim(len(rows) - 0.4, -0.95 if len(groups) > 1 else -0.6)
    _kl_axis(left, "x", [p for group in groups.values() for p in group.values()])
    left.set_xlabel("KL to the full cache (nats a token)")
    right.axvline(full.right, color=QUIET, **DASHED)
    right.set_xlim(-0.6, full.asked + 0.6)
    right.set_xticks(range(0, full.asked + 1, 4))
    right.set_xlabel(f"needles found, of {full.asked} (dashed: full)")
    return figure


@styled
def price_figure(
    families: Mapping[str, Sequence[Point]], full: Point, alt: str, cost: str = "read",
    star: tuple[str, float] | None = None,
) -> Drawing:  # fmt: skip
    """Bytes against KL with its 95 % interval, against needles found, and against random tokens copied.

    families: name -> points, joined by a line in the order given. full: the full cache, dashed. cost: "read"
    (share of the full cache's bytes a step) or "stored" (bytes a token). star: (method, KL measured now).
    """
    figure, axes = drawing(9.4, 4.2, alt=alt, columns=3)
    for i, (name, points) in enumerate(families.items()):
        colour, mark = COLOURS[i % len(COLOURS)], "os^"[i // len(COLOURS)]
        x = [_cost(p, cost) for p in points]
        kl = [p.interval for p in points]
        spread = [[k.mean - k.low for k in kl], [k.high - k.mean for k in kl]]
        line: Any = {"color": colour, "marker": mark, "markersize": 5, "linewidth": 1.2}
        axes[0].errorbar(x, [k.mean for k in kl], yerr=spread, capsize=2, label=name, **line)
        axes[1].plot(x, [p.right for p in points], **line)
        axes[2].plot(x, [p.copied for p in points], **line)
        for p in points:
            if star is not None and star[0] == p.method:
                axes[0].plot(_cost(p, cost), star[1], **STAR)
    _kl_axis(axes[0], "y", [p for points in families.values() for p in points])
    axes[0].set_title("KL (nats a token)", fontsize=10)
    axes[1].axhline(full.right, color=QUIET, **DASHED)
    axes[1].set_ylim(-0.6, full.asked + 0.6)
    axes[1].set_yticks(range(0, full.asked + 1, 4))
    axes[1].set_title(f"needles found, of {full.asked}", fontsize=10)
    axes[2].axhline(full.copied, color=QUIET, **DASHED)
    axes[2].set_ylim(-0.03, max(0.7, 1.1 * full.copied))
    axes[2].set_title("random tokens copied", fontsize=10)
    for ax in axes:
        _cost_axis(ax, cost, full)
    axes[1].set_xlabel(COSTS[cost])
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8.5, loc="outside lower center", ncols=5)
    return figure


def _cost(p: Point, cost: str) -> float:
    return 100 * p.read if cost == "read" else p.stored


def _cost_axis(ax: Axes, cost: str, full: Point) -> None:
    if cost == "read":
        ax.set_xlim(0, 100)
        return
    ax.axvline(full.stored, color=QUIET, **DASHED)
    ax.set_xscale("log", base=2)
    ticks = [full.stored / 8, full.stored / 4, full.stored / 2, full.stored]
    ax.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
    ax.minorticks_off()


def _kl_axis(ax: Axes, axis: str, points: Sequence[Point]) -> None:
    """Logarithmic, with plain numbers at those ticks that lie in sight."""
    low = 0.8 * min(p.interval.low for p in points)
    high = 1.3 * max(p.interval.high for p in points)
    ticks = [t for t in KL_TICKS if low <= t <= high]
    names = [f"{t:g}".lstrip("0") for t in ticks]
    getattr(ax, f"set_{axis}scale")("log")
    getattr(ax, f"set_{axis}lim")(low, high)
    getattr(ax, f"set_{axis}ticks")(ticks, names)
    ax.minorticks_off()
