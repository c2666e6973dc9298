"""The one chart of all methods: bytes against KL and against needles, from `results/quality.json`.

run = lesson.recorded("quality")
found = chart.points(run)                       # method -> Point; model="gemma3-270m"
chart.pareto_figure(found.values())             # cost="read"; label=("kivi-2", …); star=("kivi-4", 0.02)
chart.more(run, "token-2", "kivi-2")            # how many times the KL, text by text, with its interval
chart.on_both(run, [("token-2", "kivi-2")])     # the same on both models, and needles, as lines
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .chart_labels import place_names
from .chart_points import GEMMA as GEMMA
from .chart_points import SMOL as SMOL
from .chart_points import Point as Point
from .chart_points import agreement as agreement
from .chart_points import front as front
from .chart_points import kl as kl
from .chart_points import more as more
from .chart_points import needle_hits as needle_hits
from .chart_points import needles as needles
from .chart_points import on_both as on_both
from .chart_points import points as points
from .chart_points import row as row
from .chart_points import settings as settings
from .chart_points import summary as summary
from .style import BLUE, GREEN, INK, OCHRE, PLUM, QUIET, RUST, Drawing, dark_text, drawing, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOK: dict[str, tuple[str, str]] = {  # family -> colour, marker
    "quantization": (BLUE, "o"), "rotation": (BLUE, "D"),
    "sparse": (RUST, "s"), "entropy": (RUST, "v"),
    "low rank": (OCHRE, "p"),
    "eviction": (GREEN, "^"), "merging": (GREEN, "P"),
    "selection": (PLUM, "h"), "learned": (PLUM, "*"),
    "combined": (INK, "X"),
    "random": (QUIET, "x"), "oracle": (QUIET, "1"),
}  # fmt: skip
WORDS = {"entropy": "entropy-coded", "oracle": "oracle (knows the scores)", "random": "random eviction"}
LEAST = 3e-4  # nats a token: what is nearer to the full cache is drawn here, with an arrow down
AXIS = {
    "stored": "bytes a token, stored",
    "read": "bytes read a step, % of the full cache's",
}


@styled
def pareto_figure(
    found: Iterable[Point],
    cost: str = "stored",
    star: tuple[str, float] | None = None,
    label: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
) -> Drawing:
    """Bytes against KL (left) and against needles found (right), a dot a method, with both Pareto fronts.

    cost: "stored" (bytes a token of the prompt) or "read" (share of the full cache's a step); uncoded numbers
    count 16 bits. star: (method, KL) measured now, drawn at the method's bytes. label: methods that are
    named, with their 95 % intervals; None: each panel's front. families: which are drawn; None: all.
    """
    known = {p.method: p for p in found}
    full = known["full"]
    shown = [p for p in known.values() if p.family in (families or LOOK) and not p.exact]
    words = f"{AXIS[cost]} against KL and needles found, a dot a method, with the Pareto fronts"
    figure, axes = drawing(9.4, 5.0, alt=words, columns=2)
    for ax, loss in zip(axes, ("kl", "needles"), strict=True):
        for p in shown:
            _dot(ax, p, cost, loss)
        _front_line(ax, [full, *shown], cost, loss)
        _cost_axis(ax, full, cost)
    if star is not None:
        look: dict[str, Any] = {"markersize": 15, "markeredgecolor": "white", "zorder": 7}
        axes[0].plot(_x(known[star[0]], cost), star[1], "*", color=INK, **look)
    _loss_axes(axes, full)
    _legend(figure, axes[0], [p.family for p in shown])
    for ax, loss in zip(axes, ("kl", "needles"), strict=True):
        best = [p for p in front([full, *shown], cost, loss) if p is not full]
        _names(ax, best if label is None else [known[name] for name in label], shown, cost, loss)
    return figure


def _x(p: Point, cost: str) -> float:
    return p.stored if cost == "stored" else 100 * p.read


def _y(p: Point, loss: str) -> float:
    return max(LEAST, p.interval.mean) if loss == "kl" else p.found.mean


def _dot(ax: Axes, p: Point, cost: str, loss: str) -> None:
    colour, marker = LOOK[p.family]
    if loss == "kl" and p.interval.mean < LEAST:
        marker = "$↓$"
    thin = marker in "x1"
    look: dict[str, Any] = {} if thin else {"edgecolors": "white", "linewidths": 0.6}
    ax.scatter(_x(p, cost), _y(p, loss), s=42, color=colour, marker=marker, alpha=0.85, zorder=3, **look)


def _front_line(ax: Axes, found: Sequence[Point], cost: str, loss: str) -> None:
    """Steps: between two methods of the front one can only take the cheaper."""
    best = front(found, cost, loss)
    ax.step([_x(p, cost) for p in best], [_y(p, loss) for p in best], where="post", color=INK,
            linewidth=1.1, linestyle=(0, (4, 2)), alpha=0.7, zorder=2, label="Pareto front")  # fmt: skip


def _names(ax: Axes, chosen: Sequence[Point], shown: Sequence[Point], cost: str, loss: str) -> None:
    """Intervals of the chosen, and their names."""
    for p in chosen:
        spread, colour = (p.interval if loss == "kl" else p.found), LOOK[p.family][0]
        low = max(LEAST, spread.low) if loss == "kl" else spread.low
        ax.plot([_x(p, cost)] * 2, [low, max(low, spread.high)], color=colour, linewidth=1.1, zorder=2.5)
    names = [(_x(p, cost), _y(p, loss), p.method, dark_text(LOOK[p.family][0])) for p in chosen]
    place_names(ax, names, [(_x(p, cost), _y(p, loss)) for p in shown])


def _cost_axis(ax: Axes, full: Point, cost: str) -> None:
    top = _x(full, cost)
    ax.axvline(top, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
    ax.set_xscale("log", base=2)
    shares = {"1/8": 8, "1/4": 4, "1/2": 2, "full": 1}
    names = [f"{top / n:,.0f}\n{share}" for share, n in shares.items()]
    if cost == "read":
        names = ["12.5", "25", "50", "100"]
    ax.set_xticks([top / n for n in shares.values()], names)
    ax.minorticks_off()
    dots = [float(x) for c in ax.collections for x, _ in np.asarray(c.get_offsets())]
    left = 0.45 * min(dots)  # names of the cheapest stand to their left
    if cost == "stored":
        left = min(top / 24, left)
    ax.set_xlim(left, 1.3 * max([*dots, top]))
    ax.set_xlabel(AXIS[cost])


def _loss_axes(axes: Sequence[Axes], full: Point) -> None:
    left, right = axes
    left.set_yscale("log")
    left.set_ylim(0.8 * LEAST)
    left.set_yticks([0.001, 0.01, 0.1, 1], [".001", ".01", ".1", "1"])
    left.minorticks_off()
    left.set_title("KL from the full cache (nats a token)", fontsize=10)
    right.axhline(full.found.mean, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
    right.text(0.99, full.found.mean + 0.01, "full cache", color=QUIET, fontsize=8.5, ha="right",
               transform=right.get_yaxis_transform())  # fmt: skip
    right.set_ylim(-0.06, 1.06)
    right.set_title(f"needles found, of {full.asked}", fontsize=10)
    counts = range(0, full.asked + 1, 4)
    right.set_yticks([n / full.asked for n in counts], [str(n) for n in counts])


def _legend(figure: Drawing, ax: Axes, there: Sequence[str]) -> None:
    for family, (colour, marker) in LOOK.items():
        if family in there:
            name = WORDS.get(family, family)
            ax.scatter([], [], s=42, color=colour, marker=marker, label=name)
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=7, frameon=False, fontsize=8.5)
