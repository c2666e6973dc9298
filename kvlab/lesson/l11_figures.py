"""The figures of lesson 11."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .figures import as_array, attention_maps
from .l11 import WAYS, Trace
from .recorded import NotMeasured, Recorded
from .style import BLUE, GREEN, INK, RUST, Drawing, dark_text, direct_labels, drawing, styled

OF_WAY = dict(zip(WAYS, (RUST, BLUE, GREEN), strict=True))
KEPT = {"nothing": "nothing kept", "self": "self cache", "self + cross": "self + cross cache"}


def alignment(found: Trace, title: str) -> Drawing:
    """The cross-attention map: rows are the words said, columns those of the source."""
    map = as_array(found.map)
    alt = f"cross-attention: which of {len(found.source)} source words each of {len(found.target)} looks at"
    figure = attention_maps([map], found.target, [title], keys=found.source, columns=1, alt=alt)
    figure.axes[0].set_ylabel("word said")
    figure.axes[0].set_xlabel("word of the source")
    return figure


@styled
def rows_figure(found: Trace) -> Drawing:
    """Rows computed after each word, in three panels: encoder, source keys and values, target."""
    names = ("encoder rows", "source rows → cross K, V", "target rows → self Q, K, V")
    figure, axes = drawing(8.6, 2.9, alt="rows computed so far, by what is kept", columns=3)
    for ax, part, name in zip(axes, ("encoder", "source", "target"), names, strict=True):
        steps = range(1, len(found.target) + 1)
        for way, rows in found.rows.items():
            done = [sum(getattr(rows, part)[:step]) for step in steps]
            under = way == "self"  # wide and below: where it lies on another line, both can be seen
            ax.plot(steps, done, color=OF_WAY[way], linewidth=5 if under else 1.8, zorder=2 if under else 3)
        ax.set_title(name, fontsize=9.5)
        ax.set_xlabel("words said")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("rows so far")
    left = axes[0]
    for i, (way, name) in enumerate(KEPT.items()):
        shade = dark_text(OF_WAY[way])
        left.text(0.04, 0.95 - 0.09 * i, name, color=shade, transform=left.transAxes, va="top", fontsize=8.5)
    return figure


@styled
def bytes_figure(held: Sequence[tuple[int, int]]) -> Drawing:
    """Bytes of the cache after each word: the target's part grows, the source's does not."""
    own, cross = (np.array(part) / 1e3 for part in zip(*held, strict=True))
    steps = np.arange(1, len(held) + 1)
    figure, (ax,) = drawing(5.6, 2.8, alt="bytes of both parts of the cache, word by word")
    ax.bar(steps, cross, color=GREEN, width=0.8)
    ax.bar(steps, own, bottom=cross, color=BLUE, width=0.8)
    ax.set_xlabel("words said")
    ax.set_ylabel("stored (KB)")
    ax.set_xlim(0.4, len(held) + 0.6)
    ax.grid(visible=False, axis="x")
    ends = [(float(cross[-1]) / 2, "cross: the source", GREEN)]
    ends.append((float(cross[-1] + own[-1] / 2), "self: the target", BLUE))
    direct_labels(ax, ends)
    return figure


@styled
def step_times(
    run: Recorded | NotMeasured, live: tuple[int, int, Mapping[str, float]] | None = None
) -> Drawing | NotMeasured:
    """Recorded milliseconds of a step against the source's and the target's length; `live` as stars."""
    if not isinstance(run, Recorded):
        return run
    sweeps = (("source", "target", 16), ("target", "source", 64))
    figure, axes = drawing(8.6, 3.3, alt="time of a step against both lengths", columns=2, sharey=True)
    for ax, (x, fixed, value) in zip(axes, sweeps, strict=True):
        ends = []
        for way, colour in OF_WAY.items():
            points = sorted((row[x], 1e3 * row["median"]) for row in run.select(way=way, **{fixed: value}))
            lengths, times = zip(*points, strict=True)
            ax.plot(lengths, times, color=colour, marker="o", markersize=4, linewidth=1.8)
            ends.append((times[-1], KEPT[way], colour))
            if live is not None and {"source": live[0], "target": live[1]}[fixed] == value:
                at = live[0] if x == "source" else live[1]
                ax.plot([at], [1e3 * live[2][way]], "*", color=colour, markersize=13, markeredgecolor=INK)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
        ax.minorticks_off()
        ax.set_xlabel(f"words of the {x} ({value} of the {fixed})")
        if x == "target":
            direct_labels(ax, ends)
    shown = (50, 100, 200, 500, 1000, 2000, 4000)
    axes[0].set_yticks(shown, [f"{ms:,}" for ms in shown])
    axes[0].set_ylabel("ms a step")
    return figure


def speedups(run: Recorded | NotMeasured, of: str, over: str) -> list[tuple[int, int, float, float]]:
    """(source, target, times faster, times less work) of one way over another, at every recorded point."""
    if not isinstance(run, Recorded):
        return []
    found = []
    for fast in run.select(way=of):
        (slow,) = run.select(way=over, source=fast["source"], target=fast["target"])
        work = slow["multiply_adds"] / fast["multiply_adds"]
        found.append((fast["source"], fast["target"], slow["median"] / fast["median"], work))
    return found


@styled
def loss_curve(record: Mapping[str, Sequence[tuple[int, float]]]) -> Drawing:
    """The losses of the translator's training, nats a word; what was recorded as 0 is drawn at 0.00001."""
    steps, losses = zip(*record["loss"], strict=True)
    figure, (ax,) = drawing(5.6, 2.6, alt="the loss of the training falls by three powers of ten and more")
    ax.plot(steps, [max(lost, 1e-5) for lost in losses], color=BLUE, linewidth=1.4)
    ax.set_yscale("log")
    ax.set_xlabel("steps of 64 pairs")
    ax.set_ylabel("loss (nats a word)")
    return figure
