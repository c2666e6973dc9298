"""The figures of lesson 13; each takes data and returns a `Drawing`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from .chart_points import Point
from .judged_figures import rows_figure
from .l12 import loudness
from .l13 import peaks, slower
from .recorded import Recorded
from .style import (
    BLUE,
    COLOURS,
    GREEN,
    MEASURED,
    OCHRE,
    PLUM,
    QUIET,
    RUST,
    THEORY,
    Drawing,
    dark_text,
    direct_labels,
    drawing,
    styled,
)

LOOK = {
    "by token": RUST,
    "rotated": BLUE,
    "rotated, one scale": OCHRE,
    "rotated, codebook": GREEN,
    "by channel": PLUM,
}
METHODS = {
    "by token": "token-{}-sink",
    "rotated": "hadamard-{}",
    "rotated, one scale": "hadamard-head-{}",
    "rotated, codebook": "turbo-{}",
    "KIVI": "kivi-{}-sink",
    "KIVI, plain keys": "plain-kivi-{}",
}


@styled
def rotation_figure(before: Tensor, after: Tensor, layer: int, head: int) -> Drawing:
    """Sizes of one head's keys before and after the rotation; each channel's mean below."""
    words = "sizes of keys before and after a rotation: loud columns before, an even field after"
    figure, axes = drawing(
        7.4, 4.2, alt=words, rows=2, columns=2, sharex=True, sharey="row", height_ratios=[3, 1.3]
    )
    top = float(before[layer, head].abs().max())
    for i, (name, x) in enumerate((("keys", before), ("keys, rotated", after))):
        size = x[layer, head].abs().cpu().numpy()  # [tokens, channels]
        image = axes[i].imshow(size, aspect="auto", cmap="magma_r", vmin=0, vmax=top)
        axes[i].grid(False)
        axes[i].set_title(name)
        axes[2 + i].bar(np.arange(size.shape[1]), size.mean(0), width=0.9, color=(RUST, BLUE)[i])
        axes[2 + i].set_xlabel("channel")
        times = float(loudness(x)[layer, head])
        axes[2 + i].set_title(f"loudest channel: {times:.0f} × the median", fontsize=9, fontweight="normal")
    axes[0].set_ylabel("token")
    axes[2].set_ylabel("mean size")
    bar = figure.colorbar(image, ax=axes[:2], shrink=0.9, aspect=20, pad=0.02)
    bar.set_label("size of the number")
    bar.outline.set_visible(False)
    return figure


@styled
def ways_figure(found: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Drawing:
    """Relative error against true bits a number: `found[stream][way]`, one panel a stream."""
    words = "error against bits: for keys one scale a channel is best, for values a rotated codebook"
    figure, axes = drawing(8.6, 3.6, alt=words, columns=len(found), sharey=True)
    for ax, (stream, lines) in zip(axes, found.items(), strict=True):
        for name, points in lines.items():
            ax.plot(*zip(*points, strict=True), color=LOOK[name], label=name, **MEASURED)
        ax.set_yscale("log")
        ax.set_yticks([0.03, 0.1, 0.3], [".03", ".1", ".3"])
        ax.minorticks_off()
        ax.set_xlim(5.1, 2.1)
        ax.set_xlabel("bits a number, scales counted")
        ax.set_title(stream)
    axes[0].set_ylabel("relative error")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    return figure


@styled
def coordinates_figure(raw: Tensor, turned: Tensor, best: Sequence[float], even: Sequence[float]) -> Drawing:
    """How coordinates are spread before and after the rotation, with two sets of four levels."""
    words = "coordinates of keys: a narrow peak with long tails before, close to a normal curve after"
    figure, (ax,) = drawing(7.4, 3.6, alt=words)
    edges = np.linspace(-5, 5, 81)
    centres = (edges[1:] + edges[:-1]) / 2
    for name, x, colour in (("as they are", raw, RUST), ("rotated", turned, BLUE)):
        share, _ = np.histogram(x.flatten().cpu().numpy(), edges, density=True)
        ax.plot(centres, share, color=colour, linewidth=1.8, label=name)
    ax.plot(
        centres,
        np.exp(-(centres**2) / 2) / math.sqrt(2 * math.pi),
        color=BLUE,
        label="normal curve",
        **THEORY,
    )
    top = ax.get_ylim()[1]
    for y, name, levels, colour in ((-0.1, "best", best, GREEN), (-0.2, "even", even, OCHRE)):
        ax.plot(levels, [y * top] * len(levels), "|", color=colour, markersize=13, markeredgewidth=3)
        ax.text(-4.9, y * top, f"{name} levels", va="center", fontsize=9, color=dark_text(colour))
    ax.set_ylim(-0.27 * top, top)
    ax.set_yticks([0, 0.2, 0.4, 0.6])
    ax.set_xlabel("coordinate, where every vector has mean square 1")
    ax.set_ylabel("density")
    ax.legend(frameon=False, fontsize=9)
    return figure


@styled
def rotary_figure(plain: Tensor, keys: Tensor, channel: int) -> Drawing:
    """One channel `[tokens]` of a head along the text, before rotary and after."""
    words = "one channel along the text: steady before rotary, swinging through both signs after it"
    figure, (ax,) = drawing(7.2, 2.8, alt=words)
    ends = []
    for name, x, colour in (("after rotary", keys, RUST), ("before", plain, BLUE)):
        y = x.cpu().numpy()
        ax.plot(np.arange(len(y)), y, color=colour, linewidth=1.3)
        ends.append((float(y[-1]), name, colour))
    for start in range(0, len(plain) + 1, 32):
        ax.axvline(start, color=QUIET, linewidth=0.6, linestyle=":")
    ax.set_xlim(0, len(plain))
    ax.set_xlabel("token (dotted: groups of 32, one scale each)")
    ax.set_ylabel(f"channel {channel}")
    direct_labels(ax, ends)
    return figure


def losses_figure(found: Mapping[str, Point], star: tuple[str, float] | None = None) -> Drawing:
    """Recorded KL and needles of each way: a row a way, a colour for each number of bits.

    star: (method, the KL of one text measured now).
    """
    words = "KL of rotated and unrotated caches, with intervals, and needles found, by bits a code"
    groups = {}
    for bits in (4, 3, 2):
        methods = {name: method.format(bits) for name, method in METHODS.items()}
        groups[f"{bits} bits"] = {name: found[m] for name, m in methods.items() if m in found}
    return rows_figure(groups, found["full"], words, star)


@styled
def packed_figure(run: Recorded, codec: str = "KIVI-4") -> Drawing:
    """What a step holds beyond the cache, and how long it takes, against the tokens cached."""
    words = "memory of a step: grows with the text when a layer is decoded at once, flat in blocks"
    figure, axes = drawing(8.2, 3.2, alt=words, columns=2)
    blocks = sorted({row["blockwise"] for row in run.rows if row["blockwise"]})
    for i, (ax, label) in enumerate(
        zip(axes, ("MB held beyond the cache", "step time, × that of exact entries"), strict=True)
    ):
        ends = []
        for block, colour in zip((None, *blocks), COLOURS, strict=False):
            points = slower(run, codec, block, "exact") if i else peaks(run, codec, block)
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=colour, **MEASURED)
            ends.append((y[-1], f"{block} at a time" if block else "whole layer", colour))
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{n:,}" for n in x])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_xlabel("tokens in the cache")
        ax.set_ylabel(label)
        direct_labels(ax, ends, gap=12)
    return figure
