"""The figures of lesson 10; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from kvlab.record import Record

from .figures import Line, curves
from .recorded import Recorded
from .style import (
    ATTENTION,
    ATTENTION_NORM,
    BLUE,
    COLOURS,
    INK,
    MEASURED,
    OCHRE,
    QUIET,
    RUST,
    Drawing,
    direct_labels,
    drawing,
    styled,
)


@styled
def map_figure(
    record: Record, places: Sequence[tuple[int, int, str]], window: int, grain: int = 4
) -> Drawing:
    """Attention maps of (layer, head, type) side by side; a pixel is the largest of `grain`² weights."""
    figure, axes = drawing(
        4.1 * len(places) + 0.8,
        4.0,
        alt=f"attention of a local layer ends {window} tokens back; a global one reaches the start",
        columns=len(places),
    )
    for ax, (layer, head, kind) in zip(axes, places, strict=True):
        weights = record.attention[layer][0, head].cpu().numpy()
        n = len(weights) // grain * grain
        pooled = weights[:n, :n].reshape(n // grain, grain, n // grain, grain).max(axis=(1, 3))
        pooled = np.where(pooled > 0, pooled, np.nan)  # what is masked stays blank
        image = ax.imshow(pooled, cmap=ATTENTION, norm=ATTENTION_NORM, extent=(0, n, n, 0))
        ax.plot([0, n - window], [window, n], color=RUST, linewidth=1.2, linestyle=(0, (4, 3)))
        middle = 0.3 * (n - window), window + 0.3 * (n - window)
        look: dict[str, Any] = {"ha": "left", "va": "bottom", "color": RUST, "fontsize": 9}
        ax.annotate(f"{window} tokens back", middle, (6, 4), textcoords="offset points", **look)
        ax.grid(False)
        ax.set(xlabel="key's position", ylabel="query's position")
        ax.set_title(f"layer {layer}, {kind}, head {head}", fontsize=10)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=(0, 0.05, 0.2, 0.5, 1))
    bar.set_label("weight (√ scale)")
    return figure


def curve_figure(lengths: Sequence[int], lines: Sequence[Line], window: int) -> Drawing:
    """Bytes against tokens: counted, and planned (dashed); the window is marked."""
    figure = curves(
        lengths,
        lines,
        x_label="tokens in the cache",
        y_label="cache (MB)",
        alt=f"the hybrid cache bends at {window} tokens, the full one goes on, the static one is flat",
    )
    (ax,) = figure.axes
    ax.axvline(window, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.annotate(f"window {window}", (window, ax.get_ylim()[1]), (4, -2), textcoords="offset points", va="top")
    ax.set_xticks([0, 512, 1024, 1536, 2048], ["0", "512", "1,024", "1,536", "2,048"])
    return figure


@styled
def reach_figure(run: Recorded, live: Sequence[int] | None = None) -> Drawing:
    """Relative change of the hidden states, layer by position, as Gemma is and with all layers windowed.

    Dashed: how far windows alone can carry. `live`: last changed positions measured here, as stars.
    """
    full = next(r["windowed"] for r in run.rows if r["windowed"])
    figure, axes = drawing(
        9.6, 4.0, columns=2, sharey=True, alt="windows carry a change one window further in each layer; "
        "a full layer carries it to the end of the text at once",
    )  # fmt: skip
    names = ("Gemma 3 as it is", "its full layers windowed, too")
    tokens, block, at = (run.report.parameters[key] for key in ("tokens", "block", "changed"))
    window = 512
    for ax, windowed, name in zip(axes, ([], full), names, strict=True):
        rows = np.array([row["change"] for row in run.rows if row["windowed"] == windowed])
        shown = np.where(rows > 0, rows, np.nan)
        extent = (0, rows.shape[1] * block, len(rows) - 0.5, -0.5)
        norm = LogNorm(1e-9, 1e-1)
        image = ax.imshow(shown, cmap=ATTENTION, norm=norm, extent=extent, aspect="auto")
        last = [at + (i + 1) * (window - 1) for i in range(len(rows))]
        stop = len(rows) if windowed else full[0]
        x, y = np.repeat(last[:stop], 2), np.repeat(np.arange(stop + 1) - 0.5, 2)[1:-1]
        ax.plot(np.minimum(x, tokens), y, color=RUST, linewidth=1.4, linestyle=(0, (4, 2)))
        if live:
            ax.plot(live, range(len(live)), "*", color=OCHRE, markersize=11, markeredgecolor="white")
        ax.grid(False)
        ax.set_xlim(0, tokens)
        ax.set_xticks([0, 1024, 2048, 3072, 4096], ["0", "1,024", "2,048", "3,072", "4,096"])
        ax.set_yticks(range(0, len(rows)))
        ax.tick_params(axis="y", labelsize=7.5)
        ax.set_xlabel("position")
        ax.set_title(name, fontsize=10)
    axes[0].set_ylabel("after layer")
    bar = figure.colorbar(image, ax=axes, shrink=0.85, ticks=[1e-9, 1e-7, 1e-5, 1e-3, 1e-1])
    bar.set_label("relative change; blank: none")
    return figure


@styled
def last_figure(run: Recorded) -> Drawing:
    """The change that arrives at the last token, layer by layer, as Gemma is and with all layers windowed."""
    figure, (ax,) = drawing(
        6.4, 3.4, alt="at the last token the change jumps after the second full layer; without full layers "
        "nothing arrives",
    )  # fmt: skip
    full = next(r["windowed"] for r in run.rows if r["windowed"])
    ends = []
    for windowed, name, colour in (([], "as it is", BLUE), (full, "all windowed", COLOURS[2])):
        y = np.array([max(row["at_last"], 1e-10) for row in run.rows if row["windowed"] == windowed])
        ax.plot(y, color=colour, **MEASURED)
        ends.append((float(y[-1]), name, colour))
    for layer in full:
        ax.axvline(layer, color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)))
    ax.set_yscale("log")
    ax.set_ylim(5e-11, 1)
    ax.set_yticks([1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1], ["none", "10⁻⁸", "10⁻⁶", "10⁻⁴", "1 %", "all"])
    ax.set_xticks(range(0, 18))
    ax.set_xlabel("after layer (dotted: full layers)")
    ax.set_ylabel("change at the last token")
    direct_labels(ax, ends)
    return figure


def quality_figure(run: Recorded) -> Drawing:
    """Divergence along a text, with all full layers windowed, or one of them."""
    edges = run.report.parameters["edges"]
    middle = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    lines = []
    for row in run.rows:
        layers = row["windowed"]
        if layers:
            name = "all three windowed" if len(layers) > 1 else f"layer {layers[0]} windowed"
            lines.append(Line(name, row["kl"]))
    figure = curves(
        middle,
        lines,
        x_label="position in the text",
        y_label="KL to Gemma 3 as it is (nats a token)",
        alt="no divergence up to the window, then more the more layers are windowed",
    )
    (ax,) = figure.axes
    ax.axvline(512, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.annotate("window", (512, ax.get_ylim()[1]), (-4, -2), textcoords="offset points", ha="right", va="top")
    return figure
