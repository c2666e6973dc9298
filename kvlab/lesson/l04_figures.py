"""The figures of lesson 04; each takes what a `Stage` has measured and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from kvlab.doctor.gallery import Damage
from kvlab.doctor.gallery.damage import Side

from .figures import ATTENTION_TICKS
from .style import (
    ATTENTION,
    ATTENTION_NORM,
    GREEN,
    RUST,
    THEORY,
    Drawing,
    dark_text,
    drawing,
    styled,
    token_text,
)

FLOOR = 1e-6  # what a logarithmic axis shows where two logits are the same number
ROUNDING = 1e-3


def places(side: Side, new: int) -> list[int]:
    """Where the last token of each of the last `new` calls was put; empty if some were not watched."""
    return [call[-1] for call in side.positions[-new:]] if len(side.positions) >= new else []


def rows(side: Side, new: int) -> np.ndarray:
    """The watched head's weights, `[new, slots]`: of each of the last `new` calls the query that predicts.

    NaN where a cache had no such slot yet; room that was allocated and never filled is cut off. Empty if
    some calls were not watched: layer dropout may skip the watched layer.
    """
    if len(side.maps) < new:
        return np.empty((0, 0))
    last = [weights[-1].float().cpu().numpy() for weights in side.maps[-new:]]
    width = min(max(map(len, last)), sum(map(len, side.ids)))
    cut = [row[:width] for row in last]
    return np.array([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in cut])


def errors(found: Damage) -> np.ndarray:
    """Largest |Δlogit| of each new token, at least `FLOOR`."""
    return np.maximum(found.error.float().cpu().numpy(), FLOOR)


@styled
def ladders(panels: dict[str, Damage]) -> Drawing:
    """The position of the last token of every call: where it was put, and dashed where it belongs."""
    alt = "; ".join(f"{title}: {places(d.wrong, len(d.error))}" for title, d in panels.items())
    alt = f"position of the newest token, call by call. {alt}"
    figure, axes = drawing(3.2 * len(panels), 2.7, alt=alt, columns=len(panels))
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        new = len(found.error)
        ax.plot(range(1, new + 1), places(found.right, new), color=GREEN, **THEORY)
        ax.plot(range(1, new + 1), places(found.wrong, new), color=RUST, marker="o", markersize=4)
        ax.set_ylim(bottom=-1.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("call")
        ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("position (tokens)")
    belongs = places(found.right, new)[-1]
    axes[-1].annotate(
        "where it belongs", (new, belongs), (0, -7), textcoords="offset points", ha="right", va="top",
        color=dark_text(GREEN), fontsize=9,
    )  # fmt: skip
    return figure


@styled
def attention_rows(panels: dict[str, Side], tokens: Sequence[str]) -> Drawing:
    """One head, a row for each of the new `tokens` that asks, a column for each slot of the cache."""
    data = {title: rows(side, len(tokens)) for title, side in panels.items()}
    widths = [max(weights.shape[1], 12) ** 0.6 for weights in data.values()]
    alt = f"attention of one head, {len(tokens)} queries: {', '.join(data)}"
    figure, axes = drawing(10, 2.9, alt=alt, columns=len(data), gridspec_kw={"width_ratios": widths})
    for ax, (title, weights) in zip(axes, data.items(), strict=True):
        image = head_image(ax, weights, tokens if ax is axes[0] else [])
        ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("query")
    scale_bar(figure, image, axes)
    return figure


def head_image(ax: Axes, weights: np.ndarray, tokens: Sequence[str]) -> AxesImage:
    """Weights `[queries, slots]` on the scale of every attention map, stretched to the panel."""
    image = ax.imshow(weights, cmap=ATTENTION, norm=ATTENTION_NORM, aspect="auto")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_yticks(range(len(tokens)), [token_text(t) for t in tokens], fontsize=8)
    ax.set_xlabel("slot in the cache")
    return image


def scale_bar(figure: Drawing, image: AxesImage, axes: Sequence[Axes]) -> None:
    """The one scale of `axes`."""
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=20, pad=0.01, ticks=ATTENTION_TICKS)
    bar.set_label("weight (√ scale)")
    bar.outline.set_visible(False)
