"""The figures of lesson 12; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .chart_points import kl, needles
from .figures import Line, curves
from .l12 import BITS, loudness
from .recorded import Recorded
from .style import (
    BLUE,
    COLOURS,
    GREEN,
    INK,
    MEASURED,
    QUIET,
    RUST,
    Drawing,
    dark_text,
    direct_labels,
    drawing,
    styled,
)

FAMILIES = {
    "by channel": "channel-{}",
    "by token": "token-{}",
    "KIVI": "kivi-{}",
    "KIVI + sink": "kivi-{}-sink",
}
LOOK = dict(zip(FAMILIES, (COLOURS[3], RUST, BLUE, GREEN), strict=True))


@styled
def loud_figure(keys: Tensor, values: Tensor, layer: int, head: int) -> Drawing:
    """|K| and |V| of one head as pictures `[tokens, channels]` on one scale; each channel's mean below."""
    words = f"sizes of keys and values of layer {layer}, KV head {head}: keys have loud columns, values none"
    figure, axes = drawing(
        7.4, 4.4, alt=words, rows=2, columns=2, sharex=True, height_ratios=[3, 1.3], sharey="row"
    )
    top = max(float(x[layer, head].abs().max()) for x in (keys, values))
    for i, (name, x) in enumerate((("keys", keys), ("values", values))):
        size = x[layer, head].abs().cpu().numpy()  # [tokens, channels]
        image = axes[i].imshow(size, aspect="auto", cmap="magma_r", vmin=0, vmax=top)
        axes[i].grid(False)
        axes[i].set_title(name)
        below = axes[2 + i]
        below.bar(np.arange(size.shape[1]), size.mean(0), width=0.9, color=BLUE if i == 0 else GREEN)
        below.set_xlabel("channel")
        times = float(loudness(x)[layer, head])
        below.set_title(f"loudest channel: {times:.0f} × the median", fontsize=9, fontweight="normal")
    axes[0].set_ylabel("token")
    axes[2].set_ylabel("mean size")
    bar = figure.colorbar(image, ax=axes[:2], shrink=0.9, aspect=20, pad=0.02)
    bar.set_label("size of the number")
    bar.outline.set_visible(False)
    bar.ax.grid(False)
    return figure


@styled
def loudness_figure(keys: Tensor, values: Tensor) -> Drawing:
    """The loudness of every head, keys and values, as dots in rows with their median."""
    figure, (ax,) = drawing(6.4, 2.2, alt="the loudest channel of each head: keys far above values")
    shift = np.linspace(-0.22, 0.22, 7)
    for y, (x, colour) in enumerate(((values, GREEN), (keys, BLUE))):
        each = loudness(x).flatten().cpu().numpy()
        ax.scatter(each, y + shift[np.arange(len(each)) % 7], s=14, color=colour, alpha=0.6, linewidths=0)
        middle = float(np.median(each))
        ax.plot([middle, middle], [y - 0.36, y + 0.36], color=INK, linewidth=2)
        ax.text(middle, y + 0.4, f"median {middle:.1f}", ha="center", va="bottom", fontsize=9)
    ax.set_yticks([0, 1], ["values", "keys"])
    ax.set_ylim(-0.6, 1.75)
    ax.set_xscale("log")
    ax.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.set_xlabel("loudest channel of a head, as a multiple of its median channel")
    return figure


@styled
def levels_figure(x: Sequence[float], back: Sequence[float], levels: Sequence[float]) -> Drawing:
    """Numbers on a line, the levels that there are, and the level that each goes to."""
    figure, (ax,) = drawing(6.4, 1.9, alt="numbers and the nearest of four evenly spaced levels")
    for level in levels:
        ax.axvline(level, color=RUST, linewidth=1.4)
    for i, (a, b) in enumerate(zip(x, back, strict=True)):
        y = 0.25 + 0.5 * i / max(1, len(x) - 1)
        ax.annotate("", (b, y), (a, y), arrowprops={"arrowstyle": "->", "color": QUIET, "linewidth": 1.2})
        ax.plot(a, y, "o", color=BLUE, markersize=6)
    for code, level in enumerate(levels):
        ax.text(level, 1.02, f"code {code}", ha="center", va="bottom", fontsize=9, color=dark_text(RUST))
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.set_xlabel("number")
    ax.grid(False)
    return figure


@styled
def error_figure(found: Mapping[str, Mapping[str, Sequence[float]]], bits: Sequence[int]) -> Drawing:
    """Relative error against bits: `found[stream][axis]`, one panel a stream, on one scale."""
    words = "relative error against bits: keys by channel far below the others, values all near one another"
    figure, axes = drawing(7.6, 3.4, alt=words, columns=len(found), sharey=True)
    for ax, (stream, lines) in zip(axes, found.items(), strict=True):
        ends = []
        for (name, errors), colour in zip(lines.items(), (RUST, BLUE, COLOURS[3]), strict=False):
            ax.plot(bits, errors, color=colour, **MEASURED)
            ends.append((errors[-1], name, colour))
        ax.set_yscale("log")
        ax.set_xticks(list(bits), [str(b) for b in bits])
        ax.set_xlim(max(bits) + 0.2, min(bits) - 0.1)
        ax.set_yticks([0.003, 0.01, 0.03, 0.1, 0.3, 1], [".003", ".01", ".03", ".1", ".3", "1"])
        ax.minorticks_off()
        ax.set_xlabel("bits a code")
        ax.set_title(stream)
        direct_labels(ax, ends, gap=12)
    axes[0].set_ylabel("relative error")
    return figure


def growth_figure(found: Mapping[str, Sequence[float]]) -> Drawing:
    """Relative error of what enters each layer, for each codec."""
    layers = len(next(iter(found.values())))
    figure = curves(
        range(layers),
        [Line(name, errors) for name, errors in found.items()],
        x_label="layer (the last: the output head)",
        y_label="relative error of what enters",
        alt="the error is zero before the first layer and is carried on by every later one; fewer bits, more",
    )
    for line in figure.axes[0].lines:
        line.set_markersize(2.5)
    return figure


@styled
def first_token_figure(keys: Tensor, values: Tensor, received: Tensor) -> Drawing:
    """Norms of keys and values, and the attention that each position gets, over the first positions."""
    words = "token 0 has a small key, a small value, and far more attention than any other token"
    figure, axes = drawing(7.6, 2.6, alt=words, columns=3)
    for ax, x, name, colour in zip(axes, (keys, values), ("key", "value"), (BLUE, GREEN), strict=False):
        norms = x.norm(dim=-1)
        level = (norms / norms[:, :, 1:].median(-1, keepdim=True).values).flatten(0, 1).median(0).values
        ax.bar(np.arange(12), level[:12].cpu().numpy(), color=colour)
        ax.set_title(f"norm of the {name}", fontsize=10)
        ax.set_ylabel("median token = 1")
    axes[2].bar(np.arange(12), received[:12].cpu().numpy(), color=COLOURS[3])
    axes[2].set_title("attention received", fontsize=10)
    for ax in axes:
        ax.set_xlabel("position")
        ax.set_xticks([0, 5, 10])
    return figure


@styled
def breaking_figure(run: Recorded, star: tuple[int, float] | None = None) -> Drawing:
    """KL and needles against bits for four ways to quantize, with 95 % intervals.

    star: (bits, KL) of KIVI on the first text, measured here.
    """
    words = "from four bits to two: the KL rises steeply and needles are lost; sinks and KIVI's axes help"
    figure, (left, right) = drawing(8.2, 3.8, alt=words, columns=2)
    bits = [b for b in BITS if b < 8]
    for panel, value in ((left, kl), (right, needles)):
        ends = []
        for i, (name, pattern) in enumerate(FAMILIES.items()):
            points = [value(run, pattern.format(b)) for b in bits]
            x = [j + 0.05 * (i - 1.5) for j in range(len(bits))]
            y = [p.mean for p in points]
            spread = [[p.mean - p.low for p in points], [p.high - p.mean for p in points]]
            look: dict[str, Any] = {"elinewidth": 1, "capsize": 2, **MEASURED}
            panel.errorbar(x, y, yerr=spread, color=LOOK[name], **look)
            ends.append((y[-1], name, LOOK[name]))
        panel.set_xticks(range(len(bits)), [str(b) for b in bits])
        panel.set_xlabel("bits a code")
        if panel is left:
            panel.set_yscale("log")
            panel.set_yticks([0.001, 0.01, 0.1, 1], [".001", ".01", ".1", "1"])
            panel.minorticks_off()
        else:
            panel.set_ylim(-0.03, 1.05)
        direct_labels(panel, ends, gap=13)
    if star is not None:
        place = bits.index(star[0]) + 0.05 * (list(FAMILIES).index("KIVI") - 1.5)
        left.plot(place, star[1], "*", markersize=14, color=INK, markeredgecolor="white", zorder=6)
    left.set_title("KL from the full cache (nats a token)", fontsize=10)
    right.set_title("needles found (share)", fontsize=10)
    return figure
