"""The figures that many lessons share: each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from .style import (
    ATTENTION,
    ATTENTION_NORM,
    COLOURS,
    INK,
    MEASURED,
    QUIET,
    RUST,
    THEORY,
    Drawing,
    direct_labels,
    drawing,
    number,
    styled,
    tick,
    token_text,
)

ATTENTION_TICKS = (0, 0.05, 0.2, 0.5, 1)
Array = Any  # a tensor, an array or nested lists


def as_array(values: Array) -> np.ndarray:
    """Numbers as float64 numpy, from tensors on any device too."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=float)


@styled
def attention_maps(
    maps: Sequence[Array],
    tokens: Sequence[str],
    titles: Sequence[str],
    *,
    keys: Sequence[str] | None = None,
    columns: int = 3,
    alt: str | None = None,
) -> Drawing:
    """Attention maps side by side on one fixed scale (0–1): rows are queries from the top, columns keys.

    Args:
        maps: each [queries, keys]; NaN (masked) is left blank.
        tokens: the query tokens' texts; also the keys', unless `keys` is given.
    """
    keys = tokens if keys is None else keys
    data = [as_array(m) for m in maps]
    for m in data:
        if m.shape != (len(tokens), len(keys)):
            raise ValueError(f"a map has shape {m.shape}; the tokens make {(len(tokens), len(keys))}")
    columns = min(columns, len(data))
    rows = -(-len(data) // columns)
    side = 1.1 + 0.19 * max(len(keys), 6)
    title = alt or f"attention of {', '.join(titles)}, {len(tokens)} queries over {len(keys)} keys"
    figure, axes = drawing(side * columns + 0.9, side * rows + 0.2, alt=title, rows=rows, columns=columns)
    for ax, m, name in zip(axes, data, titles, strict=False):
        image = _map(ax, m, tokens, keys, name)
    for ax in axes[len(data) :]:
        ax.set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, pad=0.02, ticks=ATTENTION_TICKS)
    bar.set_label("weight (√ scale)")
    bar.outline.set_visible(False)
    bar.ax.grid(False)
    return figure


def attention_map(map: Array, tokens: Sequence[str], title: str, **more: Any) -> Drawing:
    """One attention map; see `attention_maps`."""
    return attention_maps([map], tokens, [title], columns=1, **more)


def _map(ax: Axes, data: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> AxesImage:
    image = ax.imshow(data, cmap=ATTENTION, norm=ATTENTION_NORM)
    ax.grid(False)
    ax.set_xticks(range(len(columns)), [token_text(t) for t in columns], rotation=90, fontsize=8)
    ax.set_yticks(range(len(rows)), [token_text(t) for t in rows], fontsize=8)
    ax.tick_params(length=0)
    ax.set_xlabel("key")
    ax.set_ylabel("query")
    ax.set_title(title, fontsize=10)
    return image


@dataclass(frozen=True)
class Line:
    """A curve: measured values (solid), theory (dashed, same colour), or both; `x` where it has its own."""

    name: str
    measured: Array | None = None
    theory: Array | None = None
    x: Array | None = None


@styled
def curves(
    x: Array,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    point: tuple[float, float, str] | None = None,
    alt: str | None = None,
) -> Drawing:
    """Curves with direct labels; put the units into the axis labels, like "time a step (ms)".

    `point` = (x, y, text) is one value measured live, drawn into recorded curves.
    """
    if len(lines) > len(COLOURS):
        raise ValueError(f"{len(lines)} lines can't be told apart, {len(COLOURS)} can; draw two figures")
    words = f"{y_label} over {x_label}: {', '.join(line.name for line in lines)}"
    figure, (ax,) = drawing(6.4, 3.6, alt=alt or words)
    ax.set_xscale("log" if log_x else "linear")
    ax.set_yscale("log" if log_y else "linear")
    ends = []
    for line, colour in zip(lines, COLOURS, strict=False):
        at = as_array(x if line.x is None else line.x)
        for values, look in ((line.theory, THEORY), (line.measured, MEASURED)):
            if values is not None:
                y = as_array(values)
                ax.plot(at, y, color=colour, **look)
                last = y[np.flatnonzero(~np.isnan(y))[-1]]
        name = line.name if line.measured is not None else f"{line.name} (theory)"
        ends.append((float(last), name, colour))
    if point is not None:
        ax.plot(*point[:2], marker="*", markersize=15, color=INK, markeredgecolor="white", zorder=5)
        where: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom", "fontsize": 9}
        ax.annotate(point[2], point[:2], (-9, 6), **where)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    ax.set_title(title)
    if any(line.theory is not None for line in lines):
        _key(ax, "dashed: theory")
    if log_x:
        _ticks_at(ax.xaxis, as_array(x))
    if log_y:
        ax.yaxis.set_major_formatter(tick)
    else:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    direct_labels(ax, ends)
    return figure


def _key(ax: Axes, text: str) -> None:
    """A quiet word above the axes, on the right."""
    ax.set_title(text, loc="right", fontsize=8.5, fontweight="normal", color=QUIET)


def _ticks_at(axis: Axis, values: np.ndarray) -> None:
    """Ticks at the measured places, written as plain numbers, at most eight of them."""
    shown = values[:: -(-len(values) // 8)]
    axis.set_major_locator(FixedLocator(shown.tolist()))
    axis.set_major_formatter(tick)
    axis.set_minor_locator(NullLocator())


@styled
def bars(
    names: Sequence[str],
    values: Array,
    *,
    label: str,
    theory: Array | None = None,
    spread: Array | None = None,
    highlight: Sequence[str] = (),
    title: str = "",
    alt: str | None = None,
) -> Drawing:
    """Horizontal bars from the top with their values written; `label` is the axis with its unit.

    `theory` draws a dashed mark on each bar, `spread` a half-width of error; `highlight` names get the
    accent colour.
    """
    sizes = as_array(values)
    words = alt or f"{label}: bars for {', '.join(names)}"
    figure, (ax,) = drawing(6.4, 0.8 + 0.34 * len(names), alt=words)
    at = np.arange(len(names))
    colours = [RUST if name in highlight else COLOURS[0] for name in names]
    ax.barh(at, sizes, 0.62, color=colours, xerr=None if spread is None else as_array(spread), ecolor=INK)
    ends = np.fmax(sizes, 0)
    if spread is not None:
        ends = ends + as_array(spread)
    if theory is not None:
        marks = as_array(theory)
        covered = (marks >= ends) & (marks < ends + 0.1 * np.nanmax(ends))  # the mark would cross the number
        ends = np.where(covered, marks, ends)
    for y, value, end in zip(at, sizes, ends, strict=True):
        ax.annotate(number(value), (end, y), (5, 0), textcoords="offset points", va="center")
    if theory is not None:
        ax.vlines(as_array(theory), at - 0.42, at + 0.42, color=INK, linestyle=(0, (3, 2)), linewidth=1.6)
        _key(ax, "dashed: theory")
    ax.set_yticks(at, [token_text(n) if n != n.strip(" ") else n for n in names])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)
    ax.set_xlabel(label)
    ax.set_title(title)
    return figure


def thumbnail_sheet(maps: Array, gap: int = 1) -> np.ndarray:
    """[layers, heads, height, width] maps on one sheet: a column a layer, `gap` NaN pixels between."""
    data = as_array(maps)
    layers, heads, height, width = data.shape
    sheet = np.full((heads * (height + gap) - gap, layers * (width + gap) - gap), np.nan)
    for layer in range(layers):
        for head in range(heads):
            top, left = head * (height + gap), layer * (width + gap)
            sheet[top : top + height, left : left + width] = data[layer, head]
    return sheet


@styled
def thumbnails(
    maps: Array, *, highlight: Sequence[tuple[int, int]] = (), title: str = "", alt: str | None = None
) -> Drawing:
    """All maps of a model as small pictures (30 × 9 for SmolLM2), on the scale of every attention map.

    `maps` is [layers, heads, queries, keys]; each (layer, head) in `highlight` gets a frame.
    """
    data = as_array(maps)
    layers, heads, height, width = data.shape
    gap = max(1, round(0.12 * height))
    sheet = thumbnail_sheet(data, gap)
    inches = min(10.5, 0.8 + 0.45 * layers)
    words = alt or f"{layers} × {heads} attention maps: one column a layer, one row a head"
    tall = (inches - 0.8) * sheet.shape[0] / sheet.shape[1] + (0.9 if title else 0.6)
    figure, (ax,) = drawing(inches, tall, alt=words)
    ax.imshow(sheet, cmap=ATTENTION, norm=ATTENTION_NORM, interpolation="antialiased")
    ax.grid(False)
    ax.set_xticks([n * (width + gap) + (width - 1) / 2 for n in range(layers)], map(str, range(layers)))
    ax.set_yticks([n * (height + gap) + (height - 1) / 2 for n in range(heads)], map(str, range(heads)))
    ax.tick_params(length=0, labelsize=8)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    for layer, head in highlight:
        corner = (layer * (width + gap) - gap / 2 - 0.5, head * (height + gap) - gap / 2 - 0.5)
        frame = Rectangle(corner, width + gap, height + gap, fill=False, edgecolor=RUST, linewidth=2)
        frame.set_clip_on(False)
        ax.add_patch(frame)
    ax.set_xlabel("layer")
    ax.set_ylabel("head")
    ax.set_title(title)
    return figure
