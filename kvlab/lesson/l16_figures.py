"""Figures of lesson 16: budgets against KL and needles, what KL hides, and where attention goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .chart_points import Point
from .l16 import BUDGETS, NAMES, Watched
from .style import COLOURS, INK, MEASURED, QUIET, Drawing, drawing, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = dict(zip(("window", "streaming", "h2o", "snapkv", "random"), COLOURS, strict=True))
MARKS = dict(zip(BUDGETS, "os^", strict=True))


@styled
def budget_curves(found: Mapping[str, Point], live: tuple[str, float] | None = None) -> Drawing:
    """KL with its 95 % interval, and needles found, against the budget.

    live: (method, KL of the first text measured here), drawn as a star.
    """
    figure, (left, right) = drawing(
        8.8, 3.6, alt="KL falls with the budget; needles stay lost long after KL is small", columns=2
    )
    for i, (name, colour) in enumerate(SHOWN.items()):
        mine = {b: found[f"{name}-{b}"] for b in BUDGETS if f"{name}-{b}" in found}
        if not mine:
            continue
        beside = 1.045 ** (i - 2)  # side by side, so that intervals can be seen
        budgets = [BUDGETS[b] * beside for b in mine]
        kl = [p.interval for p in mine.values()]
        spread = [[k.mean - k.low for k in kl], [k.high - k.mean for k in kl]]
        look = {"color": colour, **MEASURED}
        left.errorbar(budgets, [k.mean for k in kl], spread, capsize=2, elinewidth=1, **look)
        right.plot(budgets, [p.right for p in mine.values()], label=NAMES[name], **look)
        if live and live[0].startswith(f"{name}-"):
            at = BUDGETS[int(live[0].rpartition("-")[2])] * beside
            left.plot(at, live[1], marker="*", markersize=13, color=INK, linestyle="", zorder=5)
    if live:
        right.plot([], [], marker="*", markersize=11, color=INK, linestyle="", label="measured here")
    full = found["full"]
    right.axhline(full.right, color=QUIET, linestyle=(0, (5, 3)))
    right.text(10, full.right + 0.3, "full cache", color=QUIET, fontsize=9)
    right.set_ylim(-0.6, full.asked + 0.6)
    left.set_yscale("log")
    left.set_yticks([0.03, 0.1, 0.3, 1, 3], [".03", ".1", ".3", "1", "3"])
    left.set_ylabel("KL, nats a token")
    right.set_ylabel(f"needles found, of {full.asked}")
    for ax in (left, right):
        _budget_axis(ax)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _budget_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xticks([12.5, 25, 50], ["12.5 %", "25 %", "50 %"])
    ax.minorticks_off()
    ax.set_xlim(9.5, 65)
    ax.set_xlabel("entries kept of the prompt's")


@styled
def hidden_loss(found: Mapping[str, Point]) -> Drawing:
    """One dot a policy and budget: its KL against the needles it still finds."""
    figure, (ax,) = drawing(7.4, 3.8, alt="needles found against KL: small KL without needles is common")
    full = found["full"]
    for budget, mark in MARKS.items():
        for name in NAMES:
            point = found.get(f"{name}-{budget}")
            if point is not None:
                ax.plot(point.interval.mean, point.right, mark, color=SHOWN.get(name, QUIET), alpha=0.9)
    for budget, mark in MARKS.items():
        ax.plot([], [], mark, color=QUIET, label=f"{BUDGETS[budget]:g} %")
    for name, colour in SHOWN.items():
        ax.plot([], [], "s", color=colour, label=NAMES[name])
    ax.plot([], [], "s", color=QUIET, label="others")
    ax.axhline(full.right, color=QUIET, linestyle=(0, (5, 3)))
    ax.text(0.02, full.right + 0.3, "full cache, KL 0", color=QUIET, fontsize=9,
            transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_ylim(-0.6, full.asked + 0.6)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xticks([0.03, 0.1, 0.3, 1, 3], [".03", ".1", ".3", "1", "3"])
    ax.set_xlabel("KL, nats a token")
    ax.set_ylabel(f"needles found, of {full.asked}")
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def received(watched: Watched) -> Drawing:
    """Attention that each position receives, over all layers, heads and queries, as a share of all."""
    total = sum(layer.sum(dim=(0, 1)) for layer in watched.attention)
    assert not isinstance(total, int)
    share = (100 * total / total.sum()).tolist()
    figure, (ax,) = drawing(7.4, 2.7, alt="attention by position: the first token receives far more than any")
    ax.bar(range(len(share)), share, width=1.0, color=COLOURS[0])
    ax.set_yscale("log")
    ax.set_yticks([0.1, 1, 10], [".1", "1", "10"])
    ax.minorticks_off()
    ax.set_xlabel("position")
    ax.set_ylabel("% of all attention")
    ax.annotate(f"position 0: {share[0]:.0f} %", (0, share[0]), (14, -2), textcoords="offset points")
    return figure
