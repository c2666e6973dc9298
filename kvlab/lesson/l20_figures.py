"""The figures of lesson 20."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import chart
from .chart_points import Point
from .l20 import Way
from .l20_design import NotRun, Trial
from .style import BACKGROUND, BLUE, GREEN, INK, QUIET, RUST, Drawing, drawing, halo, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def ways_figure(found: Mapping[str, Way]) -> Drawing:
    """Bytes held (left) and read a step (right) of each way, as shares of a cache in 16 bits."""
    names = list(found)
    words = f"bytes held and bytes read a step, shares of 16 bits: {', '.join(names)}"
    figure, axes = drawing(9.0, 1.1 + 0.32 * len(names), alt=words, columns=2)
    for ax, what in zip(axes, ("held", "read"), strict=True):
        values = [100 * getattr(found[name], what) for name in names]
        colours = [INK if name.count("+") == 2 else QUIET if i == 0 else BLUE for i, name in enumerate(names)]
        ax.barh(range(len(names)), values, 0.62, color=colours)
        for y, value in enumerate(values):
            ax.annotate(f"{value:.0f}", (value, y), (5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(names)), names if what == "held" else [""] * len(names))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.12)
        ax.set_xlabel(f"bytes {what}{' a step' if what == 'read' else ''}, % of 16 bits")
    return figure


@styled
def budget_figure(
    found: Iterable[Point], share: float, stars: Mapping[str, Trial | NotRun] | None = None
) -> Drawing:
    """The chart of all methods with a budget, a share of 16 bits, as a line: left of it methods fit.

    stars: name -> a design that was tried; those that ran are stars.
    """
    known = list(found)
    full = next(p for p in known if p.method == "full")
    figure = chart.pareto_figure(known)
    for ax in figure.axes[:2]:
        ax.axvline(share * full.stored, color=RUST, linewidth=1.6)
        ax.annotate("budget", (share * full.stored, 0.02), (4, 0), xycoords=("data", "axes fraction"),
                    textcoords="offset points", color=RUST, fontsize=9)  # fmt: skip
    for name, tried in (stars or {}).items():
        if isinstance(tried, Trial):
            x, kl = tried.held * full.stored, max(chart.LEAST, tried.kl)
            for ax, y in zip(figure.axes[:2], (kl, tried.right / tried.asked), strict=True):
                _star(ax, x, y, name)
    figure.alt = "all recorded methods, bytes against KL and needles, and a budget as a line"
    figure.alt += ", tried designs as stars" if stars else ""
    return figure


def _star(ax: Axes, x: float, y: float, name: str) -> None:
    ax.set_xlim(left=min(ax.get_xlim()[0], 0.6 * x), right=max(ax.get_xlim()[1], 1.3 * x))
    ax.set_ylim(top=max(ax.get_ylim()[1], 1.5 * y) if ax.get_yscale() == "log" else None)
    ax.plot(x, y, "*", color=INK, markersize=17, markeredgecolor=BACKGROUND, zorder=8)
    ax.annotate(
        name, (x, y), (9, 7), textcoords="offset points", color=INK, fontsize=9.5, fontweight="bold",
        zorder=9, path_effects=[halo()],
    )  # fmt: skip


@styled
def predictions_figure(entries: Sequence[Mapping[str, Any]]) -> Drawing:
    """Each number that was predicted over what was measured, on one log scale: 1 is right.

    entries: of `lesson.predictions`, with numbers above zero; what is further off than 100 times is drawn at
    the edge.
    """
    figure, (ax,) = drawing(
        7.0, 1.0 + 0.26 * len(entries), alt="predicted over measured, prediction by prediction"
    )
    for y, entry in enumerate(entries):
        ratio = min(100.0, max(0.01, entry["value"] / entry["measured"]))
        near = abs(math.log(ratio)) < math.log(1.5)
        ax.plot([1, ratio], [y, y], color=QUIET, linewidth=1.2)
        ax.plot([ratio], [y], "o", color=GREEN if near else BLUE, markersize=6)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set_xscale("log")
    ax.set_xlim(0.008, 125)
    ax.set_xticks([0.01, 0.1, 1, 10, 100], ["1/100", "1/10", "right", "10 ×", "100 ×"])
    ax.set_yticks(range(len(entries)), [entry["id"] for entry in entries], fontsize=8)
    ax.set_ylim(len(entries) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("your prediction over what was measured")
    return figure
