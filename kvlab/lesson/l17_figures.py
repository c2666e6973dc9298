"""The figures of lesson 17; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap

from .chart_points import Point
from .figures import as_array
from .judged_figures import rows_figure
from .l17 import RECORDED, times_dense
from .recorded import Recorded
from .style import (
    ATTENTION,
    ATTENTION_NORM,
    BACKGROUND,
    BLUE,
    COLOURS,
    GREEN,
    INK,
    MEASURED,
    OCHRE,
    PLUM,
    QUIET,
    RUST,
    THEORY,
    Drawing,
    direct_labels,
    drawing,
    styled,
)

READ = ListedColormap([BACKGROUND, "#5C79D6"])
LOOK = {"window": RUST, "sinks + recent": BLUE, "BigBird": GREEN, "strided": PLUM, "columns": OCHRE}


@styled
def masks_figure(masks: Mapping[str, Any], columns: int = 3) -> Drawing:
    """Masks side by side: rows queries from the top, columns keys; blue is read. Titles count the pairs."""
    rows = -(-len(masks) // columns)
    names = ", ".join(masks)
    figure, axes = drawing(2.6 * columns, 2.75 * rows, alt=f"masks of {names}", rows=rows, columns=columns)
    for ax, (name, mask) in zip(axes, masks.items(), strict=False):
        data = as_array(mask)
        share = data.sum() / (len(data) * (len(data) + 1) / 2)
        ax.imshow(data, cmap=READ, vmin=0, vmax=1)
        ax.plot([-0.5, len(data) - 0.5], [-0.5, len(data) - 0.5], color=QUIET, linewidth=0.8)
        ax.grid(False)
        ax.set_title(f"{name}: {share:.0%}", fontsize=9.5)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel("key", fontsize=8.5)
        ax.set_ylabel("query", fontsize=8.5)
    for ax in axes[len(masks) :]:
        ax.set_visible(False)
    return figure


@styled
def overlay_figure(attention: Any, masks: Mapping[str, Any], title: str) -> Drawing:
    """One real map, then the same with what each pattern does not read left blank."""
    shown = {"everything": np.ones_like(as_array(attention)), **{n: as_array(m) for n, m in masks.items()}}
    figure, axes = drawing(
        2.7 * len(shown), 3.1, alt=f"{title}, seen through {', '.join(shown)}", columns=len(shown)
    )
    for ax, (name, mask) in zip(axes, shown.items(), strict=True):
        data = as_array(attention)
        kept = np.where((mask > 0) & np.tri(len(data), dtype=bool), data, np.nan)
        image = ax.imshow(kept, cmap=ATTENTION, norm=ATTENTION_NORM)
        ax.set_facecolor("#E8E5DE")
        ax.grid(False)
        ax.set_title(f"{name}: {np.nansum(kept) / len(data):.2f}", fontsize=9.5)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel("key", fontsize=8.5)
    axes[0].set_ylabel("query", fontsize=8.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=22, pad=0.01, ticks=(0, 0.05, 0.2, 0.5, 1))
    bar.set_label("weight (√ scale)", fontsize=8.5)
    bar.outline.set_visible(False)
    return figure


@styled
def mass_figure(masses: Mapping[str, Any]) -> Drawing:
    """Share of the attention on each mask, layer by layer (rows) and head by head (columns)."""
    names = ", ".join(masses)
    figure, axes = drawing(
        1.75 * len(masses) + 1.2, 4.4, alt=f"share of attention by layer and head under {names}",
        columns=len(masses), sharey=True,
    )  # fmt: skip
    for ax, (name, values) in zip(axes, masses.items(), strict=True):
        data = as_array(values)
        image = ax.imshow(data, cmap=ATTENTION, vmin=0, vmax=1, aspect="auto")
        ax.grid(False)
        ax.set_title(f"{name}\n{data.mean():.2f}", fontsize=9.5)
        ax.set_xlabel("head", fontsize=9)
        ax.set_xticks(range(0, data.shape[1], 4))
    axes[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label("share of the attention")
    bar.outline.set_visible(False)
    return figure


@styled
def collapse_figure(values: Mapping[str, Any], width: int, smooth: int = 8) -> Drawing:
    """KL to full attention by position, mean over `smooth` tokens; where the window leaves token 0."""
    figure, (ax,) = drawing(6.4, 3.4, alt="KL by position: a window collapses where it loses the first token")
    ends = []
    for name, one in values.items():
        data = as_array(one)
        runs = data[: len(data) // smooth * smooth].reshape(-1, smooth).mean(axis=1)
        at = np.arange(len(runs)) * smooth + smooth / 2
        ax.plot(at, runs, color=LOOK[name], linewidth=1.8)
        ends.append((float(runs[-1]), name, LOOK[name]))
    ax.axvline(width, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    top = 1.3 * ax.get_ylim()[1]
    ax.set_ylim(None, top)
    ax.text(width + 3, 0.98 * top, f"token {width}: the window no longer holds token 0",
            fontsize=8.5, color=QUIET, va="top")  # fmt: skip
    ax.set_xlabel("position in the text (tokens)")
    ax.set_ylabel("KL to full attention (nats)")
    direct_labels(ax, ends)
    return figure


@styled
def reach_figure(measured: Sequence[int], width: int) -> Drawing:
    """How far a change of token 0 has come behind each layer: measured, and layers × (width − 1)."""
    figure, (ax,) = drawing(
        6.0, 3.1, alt="a change of the first token travels a window further in each layer"
    )
    layers = np.arange(1, len(measured) + 1)
    ax.plot(layers, layers * (width - 1), color=BLUE, **THEORY)
    ax.plot(layers, measured, color=BLUE, **MEASURED)
    ax.set_xlabel("layers passed")
    ax.set_ylabel("last position that notices")
    ax.set_title(
        f"dashed: layers × {width - 1}   dots: measured", loc="right", fontsize=8.5,
        fontweight="normal", color=QUIET,
    )  # fmt: skip
    return figure


@styled
def reads_figure(counts: Mapping[str, Sequence[int]], lengths: Sequence[int]) -> Drawing:
    """Entries that one new token reads, against the length of the text."""
    figure, (ax,) = drawing(6.4, 3.3, alt="entries read: everything grows, a window stays, strides between")
    ends = []
    for i, (name, values) in enumerate(counts.items()):
        colour = LOOK.get(name, INK if i == 0 else COLOURS[i % len(COLOURS)])
        ax.plot(lengths, values, color=colour, **MEASURED)
        ends.append((float(values[-1]), name, colour))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(lengths[::2], [f"{n:,}" for n in lengths[::2]])
    ticks = [64, 256, 1024, 4096, 16384]
    ax.set_yticks(ticks, [f"{n:,}" for n in ticks])
    ax.minorticks_off()
    ax.set_xlabel("tokens in the cache")
    ax.set_ylabel("entries read per layer and head")
    direct_labels(ax, ends)
    return figure


@styled
def speed_figure(run: Recorded, tokens: Sequence[int]) -> Drawing:
    """A prompt under patterns: how many times faster than PyTorch's causal attention, one layer."""
    figure, axes = drawing(8.0, 2.6, alt="prompts under patterns are faster, the longer the more",
                           columns=len(tokens), sharey=True)  # fmt: skip
    for ax, n in zip(axes, tokens, strict=True):
        found = times_dense(run.rows, "prefill", n)
        names = list(found)
        ax.barh(range(len(names)), [found[name] for name in names], color=[QUIET] + [BLUE] * (len(names) - 1))
        for i, name in enumerate(names):
            ax.text(found[name], i, f" {found[name]:.1f}×", va="center", fontsize=8.5)
        ax.set_yticks(range(len(names)), names, fontsize=8.5)
        ax.set_xlim(0, 1.25 * max(found.values()))
        ax.grid(axis="y", visible=False)
        ax.set_title(f"{n:,} tokens", fontsize=9.5)
        ax.set_xlabel("times faster than dense")
    axes[0].invert_yaxis()  # shared: once for all
    return figure


def losses_figure(found: Mapping[str, Point], star: tuple[str, float] | None = None) -> Drawing:
    """Recorded KL and needles, a row a pattern. star: (method, the KL of one text measured now)."""
    rows = {name: found[method] for name, method in RECORDED.items()}
    words = "KL and needles of fixed patterns: lowest with sinks and recent tokens, and all lose most needles"
    return rows_figure({"": rows}, found["full"], words, star)
