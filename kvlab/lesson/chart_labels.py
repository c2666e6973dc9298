"""Names beside dots, placed so that they cover neither one another nor other dots where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .style import halo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top, in points
SIZE = 8.5  # points
SIDES = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))  # right first, then left, then the corners


def place_names(
    ax: Axes, names: Sequence[tuple[float, float, str, str]], dots: Sequence[tuple[float, float]]
) -> None:
    """Write each (x, y, text, colour) beside its (x, y), where it meets the least of what is there.

    dots: all (x, y) drawn. Call it when limits, titles and legends are there: then the axes have their size.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()

    def points(x: float, y: float) -> tuple[float, float]:
        px, py = ax.transData.transform((x, y)) * 72 / figure.dpi
        return float(px), float(py)

    left, bottom, width, height = (float(size) * 72 / figure.dpi for size in ax.bbox.bounds)
    edges = (left, bottom, left + width, bottom + height)
    named = [(x, y) for x, y, _, _ in names] * 4  # a name should cover a few dots rather than one of these
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in (points(*dot) for dot in (*dots, *named))]
    for x, y, text, colour in names:
        dx, dy, box = _freest(*points(x, y), 0.56 * SIZE * len(text), taken, edges)
        taken += [box] * 4
        ax.annotate(
            text, (x, y), (dx, dy), textcoords="offset points", fontsize=SIZE, color=colour, va="center",
            ha="left" if dx >= 0 else "right", zorder=6, path_effects=[halo(1.5)],
        )  # fmt: skip


def _freest(x: float, y: float, width: float, taken: Sequence[Box], edges: Box) -> tuple[float, float, Box]:
    """The offset of a text of this width that covers the least, nearest first; and the box that it takes."""
    places: list[tuple[int, int, tuple[float, float, Box]]] = []
    for far in range(4):
        for side, up in SIDES if far else SIDES[:2]:
            dx, dy = side * 7.0, up * 10.0 * far
            left = x + dx - (width if side < 0 else 0)
            box = (left, y + dy - SIZE / 2, left + width, y + dy + SIZE / 2)
            out = 3 * (left < edges[0] or left + width > edges[2] or box[1] < edges[1] or box[3] > edges[3])
            places.append((out + sum(_meet(box, other) for other in taken), len(places), (dx, dy, box)))
    return min(places)[2]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
