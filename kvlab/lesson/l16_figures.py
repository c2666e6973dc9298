"""Figures of lesson 16: budgets against KL and needles, what KL hides, and where attention goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .l16 import NAMES, Point, Watched
from .style import COLOURS, INK, MEASURED, QUIET, Drawing, drawing, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("window", "StreamingLLM", "H2O", "SnapKV", "random")


@styled
def budget_curves(found: list[Point], live: tuple[str, int, float] | None = None) -> Drawing:
    """KL with its 95 % interval, and needles found, against the budget; a star: measured here."""
    figure, (left, right) = drawing(
        8.8, 3.6, alt="KL falls with the budget; needles stay lost long after KL is small", columns=2
    )
    for i, (name, colour) in enumerate(zip(SHOWN, COLOURS, strict=True)):
        mine = sorted((p for p in found if p.name == name), key=lambda p: p.budget)
        if not mine:
            continue
        budgets = [p.budget * 1.045 ** (i - 2) for p in mine]  # side by side, so that intervals can be seen
        means = [p.interval.mean for p in mine]
        below = [min(m - p.interval.low, 0.9 * m) for m, p in zip(means, mine, strict=True)]
        above = [p.interval.high - m for m, p in zip(means, mine, strict=True)]
        left.errorbar(budgets, means, (below, above), color=colour, capsize=2, elinewidth=1, **MEASURED)
        right.plot(budgets, [p.right for p in mine], color=colour, label=name, **MEASURED)
    if live:
        left.plot(live[1] * 1.045 ** (SHOWN.index(live[0]) - 2), live[2], marker="*", markersize=13,
                  color=INK, linestyle="", zorder=5)  # fmt: skip
        right.plot([], [], marker="*", markersize=11, color=INK, linestyle="", label=f"{live[0]}, here")
    full = [p for p in found if p.name == NAMES["full"]]
    if full:
        right.axhline(full[0].right, color=QUIET, linestyle=(0, (5, 3)))
        right.text(10, full[0].right + 0.3, "full cache", color=QUIET, fontsize=9)
        right.set_ylim(-0.6, full[0].asked + 0.6)
    left.set_yscale("log")
    left.set_ylabel("KL, nats a token")
    right.set_ylabel("needles found")
    for ax in (left, right):
        _budget_axis(ax)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _budget_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xticks([12, 25, 50], ["12 %", "25 %", "50 %"])
    ax.minorticks_off()
    ax.set_xlim(9.5, 65)
    ax.set_xlabel("entries kept of the prompt's")


@styled
def hidden_loss(found: list[Point]) -> Drawing:
    """One dot a policy and budget: its KL against the needles it still finds."""
    figure, (ax,) = drawing(7.4, 3.8, alt="needles found against KL: small KL without needles is common")
    full = next(p for p in found if p.name == NAMES["full"])
    marks = {50: "o", 25: "s", 12: "^"}
    for point in found:
        if point is not full:
            chosen = point.name in SHOWN
            colour = COLOURS[SHOWN.index(point.name)] if chosen else QUIET
            ax.plot(point.interval.mean, point.right, marks[point.budget], color=colour, alpha=0.9)
    for budget, mark in marks.items():
        ax.plot([], [], mark, color=QUIET, label=f"{budget} %")
    for name, colour in zip(SHOWN, COLOURS, strict=True):
        if any(p.name == name for p in found):
            ax.plot([], [], "s", color=colour, label=name)
    ax.axhline(full.right, color=QUIET, linestyle=(0, (5, 3)))
    ax.text(0.02, full.right + 0.3, "full cache, KL 0", color=QUIET, fontsize=9,
            transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_ylim(-0.6, full.asked + 0.6)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xticks([0.1, 0.2, 0.5, 1, 2], [".1", ".2", ".5", "1", "2"])
    ax.set_xlim(0.09, 3)
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
    ax.set_xlabel("position")
    ax.set_ylabel("% of all attention")
    ax.annotate(f"position 0: {share[0]:.0f} %", (0, share[0]), (14, -2), textcoords="offset points")
    return figure
