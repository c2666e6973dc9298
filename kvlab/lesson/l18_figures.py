"""The figures of lesson 18; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .chart_points import Point
from .figures import as_array
from .judged_figures import price_figure
from .l18_runs import families
from .style import (
    ATTENTION,
    BLUE,
    GREEN,
    MEASURED,
    QUIET,
    RUST,
    Drawing,
    drawing,
    styled,
)


@styled
def needed_figure(by_layer: Any, tokens: int) -> Drawing:
    """Entries that hold most of the attention, `[layers, queries]`: median and quartiles by layer."""
    data = as_array(by_layer)
    low, middle, high = np.percentile(data, [25, 50, 75], axis=1)
    figure, (ax,) = drawing(6.4, 3.2, alt="entries that hold most of the attention: many at first, then few")
    layers = np.arange(len(data))
    ax.fill_between(layers, low, high, color=BLUE, alpha=0.18, linewidth=0)
    ax.plot(layers, middle, color=BLUE, **MEASURED)
    ax.axhline(tokens, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.text(len(data) - 1, 0.9 * tokens, "all entries", color=QUIET, fontsize=8.5, ha="right", va="top")
    ax.set_yscale("log", base=2)
    ticks = [1, 4, 16, 64, 256]
    ax.set_yticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.set_xlabel("layer")
    ax.set_ylabel("entries for 90 %")
    return figure


@styled
def pages_figure(attention: Sequence[float], scores: Sequence[float], chosen: Sequence[int],
                 title: str) -> Drawing:  # fmt: skip
    """By page: the true attention above, the score that ranks it below. Blue pages are read."""
    figure, (top, below) = drawing(7.4, 3.6, alt=f"{title}: pages, attention and scores", rows=2, sharex=True)
    colours = [BLUE if page in set(chosen) else "#C9C4BA" for page in range(len(scores))]
    top.bar(range(len(attention)), attention, color=colours)
    top.set_ylabel("attention")
    top.set_title(title)
    below.bar(range(len(scores)), np.subtract(scores, min(scores)), color=colours)
    below.set_ylabel("score − least")
    below.set_xlabel("page (blue: read)")
    return figure


@styled
def recall_figure(bits: Sequence[int], curves: Mapping[str, Sequence[float]], chance: float) -> Drawing:
    """Share of the best keys that the hashes find, by their bits."""
    figure, (ax,) = drawing(6.2, 3.1, alt="recall of SimHash grows slowly with its bits")
    for (name, values), colour in zip(curves.items(), (BLUE, QUIET), strict=True):
        ax.plot(bits, values, color=colour, label=name, **MEASURED)
    ax.axhline(chance, color=RUST, linewidth=1, linestyle=(0, (4, 3)), label="at random")
    ax.set_xscale("log", base=2)
    ax.set_xticks(bits, [f"{n}" for n in bits])
    ax.minorticks_off()
    ax.set_ylim(0, 1)
    ax.set_xlabel("bits a key (8 are a byte)")
    ax.set_ylabel("of the best 51 keys, found")
    ax.legend(frameon=False, fontsize=8.5)
    return figure


@styled
def copying_figure(scores: Any, chosen: Sequence[tuple[int, int]], group: int) -> Drawing:
    """How much each head copies, layers by heads; a dot where the KV head reads everything under Duo."""
    data = as_array(scores)
    figure, (ax,) = drawing(4.6, 5.0, alt="copy scores of all heads: a handful copies")
    image = ax.imshow(data, cmap=ATTENTION, vmin=0, vmax=1, aspect="auto")
    for layer, kv in chosen:
        ax.plot((kv + 0.5) * group - 0.5, layer, "o", color=RUST, markersize=3)
    ax.grid(False)
    ax.set_xlabel("query head")
    ax.set_ylabel("layer")
    ax.set_xticks(range(data.shape[1]))
    bar = figure.colorbar(image, ax=ax, shrink=0.7, pad=0.03)
    bar.set_label("attention on the token to copy")
    bar.outline.set_visible(False)
    return figure


def losses_figure(found: Mapping[str, Point], star: tuple[str, float] | None = None) -> Drawing:
    """Bytes read against KL, needles and copying. star: (method, the KL of one text measured now)."""
    words = "bytes read a step against KL, needles found and tokens copied, for all dynamic choices"
    return price_figure(families(found), found["full"], words, "read", star)


@styled
def speed_figure(found: Mapping[str, float], title: str) -> Drawing:
    """Ways to attend with one token: how many times as fast as dense."""
    figure, (ax,) = drawing(6.6, 2.7, alt="one token: pages gathered are fastest, a mask gains nothing")
    names = list(found)
    colours = [QUIET, RUST] + [GREEN] + [BLUE] * (len(names) - 3)
    ax.barh(range(len(names)), [found[name] for name in names], color=colours)
    for i, name in enumerate(names):
        ax.text(found[name], i, f" {found[name]:.2f}×", va="center", fontsize=8.5)
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.set_xlim(0, 1.2 * max(found.values()))
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    ax.set_title(title, fontsize=9.5)
    ax.set_xlabel("times as fast as dense")
    return figure
