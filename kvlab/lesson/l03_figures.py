"""The figures of lesson 03; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from torch import Tensor

from kvlab.model.config import Config

from .figures import Line, as_array, curves
from .l03 import flop_ratio, speedup_points, step_points
from .recorded import NotMeasured, Recorded
from .style import BLUE, COLOURS, GREEN, INK, QUIET, RUST, Drawing, direct_labels, drawing, styled, token_text

CHANGE = LinearSegmentedColormap.from_list("kvlab change", ["#F3E3D8", "#D08A6A", RUST, "#3A1206"])
CHANGE_NORM = LogNorm(vmin=0.01, vmax=10, clip=True)
SAME = 1e-3  # what is smaller is rounding, and left blank


@styled
def change_maps(maps: Sequence[Tensor], tokens: Sequence[Sequence[str]], titles: Sequence[str]) -> Drawing:
    """How far the keys of each position moved, in each layer: `[layers, tokens]` each, on one fixed scale.

    What did not move (less than `SAME`) is left blank.
    """
    data = [as_array(m) for m in maps]
    words = "; ".join(f"{t}: largest change {m.max():.1f}" for t, m in zip(titles, data, strict=True))
    width = sum(1.3 + 0.23 * m.shape[1] for m in data) + 1.2
    ratios = [m.shape[1] + 2 for m in data]
    figure, axes = drawing(
        max(width, 4.6), 3.9, alt=words, columns=len(data), gridspec_kw={"width_ratios": ratios}
    )
    for ax, m, names, title in zip(axes, data, tokens, titles, strict=True):
        image = ax.imshow(np.where(m < SAME, np.nan, m), cmap=CHANGE, norm=CHANGE_NORM, aspect="auto")
        ax.set_facecolor("white")
        ax.grid(False)
        ax.set_xticks(range(len(names)), [token_text(t) for t in names], rotation=90, fontsize=8)
        ax.set_yticks(range(0, m.shape[0], 5))
        ax.set_ylabel("layer")
        ax.set_title(title, fontsize=10)
        ax.tick_params(length=0)
        if m.max() < SAME:
            middle = ((m.shape[1] - 1) / 2, m.shape[0] / 2)
            ax.text(*middle, "no key\nchanges", ha="center", va="center", color=QUIET)
    bar = figure.colorbar(image, ax=axes, aspect=25, pad=0.02, ticks=[0.01, 0.1, 1, 10])
    bar.ax.set_yticklabels(["≤ .01", ".1", "1", "10"])
    bar.ax.minorticks_off()
    bar.set_label("largest |change| of a key (blank: none)")
    bar.outline.set_visible(False)
    bar.ax.grid(False)
    return figure


def rows_figure(naive: Sequence[int], prompt: int) -> Drawing:
    """Token rows computed so far, against the number of new tokens: naive, counted and by the formula."""
    new = np.arange(1, len(naive) + 1)
    lines = [
        Line("all rows", np.cumsum(naive), new * prompt + new * (new - 1) / 2),
        Line("new rows", theory=prompt + new - 1),
    ]
    alt = f"{sum(naive):,} token rows for {len(naive)} new tokens, {prompt + len(naive) - 1} of them new"
    return curves(new, lines, x_label="new tokens", y_label="token rows computed", alt=alt)


@styled
def step_times(
    run: Recorded | NotMeasured, live: Mapping[str, tuple[int, float]] | None = None
) -> Drawing | NotMeasured:
    """Milliseconds of one step against the context, naive and cached, both axes logarithmic.

    `live` has (context, seconds) of each way, measured here; they are drawn as stars.
    """
    if not isinstance(run, Recorded):
        return run
    ways = {"naive": step_points(run, "naive"), "with a cache": step_points(run, "dynamic")}
    contexts = sorted({n for points in ways.values() for n, _ in points})
    lines = [Line(name, [1e3 * s for _, s in pts], x=[n for n, _ in pts]) for name, pts in ways.items()]
    x, y = "tokens before the step", "time of one step (ms)"
    alt = "time of a step against the context, naive and with a cache"
    figure = curves(contexts, lines, x_label=x, y_label=y, log_x=True, log_y=True, alt=alt)
    (ax,) = figure.axes
    look: dict[str, Any] = {"markersize": 15, "markeredgecolor": "white", "zorder": 5}
    for name, colour in zip(ways if live else (), COLOURS, strict=False):
        context, seconds = (live or {})[name]
        ax.plot(context, 1e3 * seconds, "*", color=colour, **look)
        note: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "ha": "right"}
        ax.annotate("measured here", (context, 1e3 * seconds), (-8, 5), **note)
    ax.margins(y=0.12)
    last = [(1e3 * points[-1][1], name) for name, points in ways.items()]
    _label_ends(figure, [(y, name, colour) for (y, name), colour in zip(last, COLOURS, strict=False)])
    return figure


@styled
def speedups(run: Recorded | NotMeasured, config: Config) -> Drawing | NotMeasured:
    """How many times faster a cached step is than a naive one (solid), and how many fewer FLOPs (dashed)."""
    if not isinstance(run, Recorded):
        return run
    contexts, times = zip(*speedup_points(run), strict=True)
    flops = [flop_ratio(config, n) for n in contexts]
    alt = "ratio of a naive to a cached step against the context: time measured, FLOPs by count"
    x, y = "tokens before the step", "naive / cached (×)"
    lines = [Line("ratio", times, flops)]
    figure = curves(contexts, lines, x_label=x, y_label=y, log_x=True, log_y=True, alt=alt)
    _label_ends(figure, [(flops[-1], "FLOPs", BLUE), (times[-1], "time", BLUE)])
    return figure


def _label_ends(figure: Drawing, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write other labels at the right edge than `curves` does: where a line's two ends lie far apart."""
    (ax,) = figure.axes
    for text in list(ax.texts):
        if text.get_transform() == ax.transAxes:
            text.remove()
    direct_labels(ax, ends)


def bytes_read(
    contexts: Sequence[int], weights: int, cache: Sequence[int], counted: Sequence[float]
) -> Drawing:
    """Bytes that one cached step reads: weights, and keys and values; `counted` is NaN where not measured."""
    lines = [
        Line("weights", theory=np.full(len(contexts), weights) / 1e6),
        Line("keys, values", np.asarray(counted, dtype=float) / 1e6, np.asarray(cache) / 1e6),
    ]
    alt = f"a step reads {weights / 1e6:,.0f} MB of weights and, at {contexts[-1]:,} tokens, "
    alt += f"{cache[-1] / 1e6:,.0f} MB of keys and values"
    x, y = "tokens in the cache", "read by one step (MB)"
    figure = curves(contexts, lines, x_label=x, y_label=y, log_x=True, log_y=True, alt=alt)
    _label_ends(figure, [(weights / 1e6, "weights", BLUE), (cache[-1] / 1e6, "keys, values", GREEN)])
    return figure


@styled
def deletions(probabilities: Sequence[float], tokens: Sequence[str], full: float, word: str) -> Drawing:
    """The probability of `word` when one cached token is forgotten; dashed: none is."""
    low = [t for t, p in zip(tokens, probabilities, strict=True) if p < full / 2]
    alt = f"probability of {word!r} after forgetting one token; under half for {', '.join(map(repr, low))}"
    figure, (ax,) = drawing(0.9 + 0.27 * len(tokens), 3.1, alt=alt)
    at = np.arange(len(tokens))
    colours = [RUST if p < full / 2 else BLUE for p in probabilities]
    ax.bar(at, probabilities, 0.62, color=colours)
    ax.axhline(full, color=INK, linestyle=(0, (5, 3)), linewidth=1.2)
    note: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
    ax.annotate("nothing forgotten", (len(tokens) - 0.5, full), (0, 14), ha="right", color=QUIET, **note)
    for x, p in enumerate(probabilities):
        if p < full / 2:
            ax.annotate(f"{p:.0%}", (x, p), (0, 3), ha="center", **note)
    ax.set_xticks(at, [token_text(t) for t in tokens], rotation=90)
    ax.set_xlim(-0.6, len(tokens) - 0.4)
    ax.set_ylim(0, 1)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("the one cached token that is forgotten")
    ax.set_ylabel(f"probability of {token_text(word)}")
    return figure
