"""Lesson 02's widget: two arrows turn with their positions; their score knows only the distance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ipywidgets import HTML, IntSlider, Layout
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from .figures import Array, as_array
from .style import BLUE, GREEN, INK, QUIET, RUST, Drawing, dark_text, drawing, styled
from .tables import card, inline
from .widgets import Exhibit, live

FARTHEST = 32
DISTANCES = np.arange(-FARTHEST, FARTHEST + 1)


def shares(q: Array, k: Array, frequencies: Array, distances: Array) -> np.ndarray:
    """What each rotary pair adds to q·k when the query stands `distances` tokens after the key, `[n, pairs]`.

    q, k: `[head_dim]`, not rotated. Pair i is (i, i + head_dim / 2), turned by `frequencies[i]` a token.
    """
    q, k, turn = as_array(q), as_array(k), np.multiply.outer(as_array(distances), as_array(frequencies))
    (q1, q2), (k1, k2) = np.split(q, 2), np.split(k, 2)
    return np.cos(turn) * (q1 * k1 + q2 * k2) + np.sin(turn) * (q1 * k2 - q2 * k1)


class Clock:
    """The figure of the clock. `.draw(query, key, pair, shift)` moves it; `.words` says what it shows.

    q, k: `[head_dim]`, a query and a key before the rotary embedding; frequencies: `[head_dim / 2]`; scale:
    the factor on the score.
    """

    def __init__(self, q: Array, k: Array, frequencies: Array, scale: float, name: str) -> None:
        self.frequencies, self.name = as_array(frequencies), name
        self.phases = [np.arctan2(*np.split(as_array(x), 2)[::-1]) for x in (q, k)]
        self.parts = shares(q, k, frequencies, DISTANCES) * scale  # [distances, pairs]
        self.total = self.parts.sum(axis=1)
        self.words = ""
        self._make()

    @styled
    def _make(self) -> None:
        self.figure, (dial, curve) = drawing(7.6, 3.0, alt="rotary clock", columns=2, width_ratios=(1, 1.75))
        self.arrows = _dial(dial)
        curve.axvspan(-FARTHEST, -0.5, color=QUIET, alpha=0.12, linewidth=0)
        bottom: dict[str, Any] = {"transform": curve.get_xaxis_transform(), "fontsize": 8.5, "color": QUIET}
        curve.text(-FARTHEST + 1, 0.03, "key in the future: masked", **bottom)
        curve.plot(DISTANCES, self.total, color=INK, linewidth=1.6)
        (self.part,) = curve.plot(DISTANCES, self.total, color=GREEN, linewidth=1.6)
        (self.at_total,) = curve.plot([0], [0], "o", color=INK, markersize=8)
        (self.at_part,) = curve.plot([0], [0], "o", color=GREEN, markersize=8)
        self.here = curve.axvline(0, color=QUIET, linewidth=0.8)
        low, high = (f(f(self.total), f(self.parts.reshape(-1))) for f in (min, max))
        curve.set_ylim(low - 0.08 * (high - low), high + 0.22 * (high - low))
        curve.set_xlim(-FARTHEST, FARTHEST)
        top: dict[str, Any] = {"transform": curve.transAxes, "ha": "right", "va": "top"}
        curve.text(0.99, 0.98, "all pairs together", color=INK, **top)
        self.label = curve.text(0.99, 0.9, "pair 0 alone", color=dark_text(GREEN), **top)
        curve.set_xlabel("distance = query position − key position (tokens)")
        curve.set_ylabel("score")
        curve.set_title(self.name)

    def draw(self, query: int, key: int, pair: int, shift: int) -> Drawing:
        """The figure with the query at `query + shift`, the key at `key + shift`, and one pair picked."""
        turn, distance = float(self.frequencies[pair]), query - key
        for arrow, phase, position in zip(self.arrows, self.phases, (query, key), strict=True):
            angle = float(phase[pair]) + (position + shift) * turn
            _point(arrow, angle)
        self.part.set_ydata(self.parts[:, pair])
        at = distance + FARTHEST
        self.at_part.set_data([distance], [self.parts[at, pair]])
        self.at_total.set_data([distance], [self.total[at]])
        self.here.set_xdata([distance, distance])
        self.label.set_text(f"pair {pair} alone")
        places = f"query at {query + shift:,}, key at {key + shift:,}, distance {distance}"
        speed = f"pair {pair} turns {turn:.3g} rad a token, once in {2 * math.pi / turn:,.0f} tokens"
        part, total = self.parts[at, pair], self.total[at]
        self.words = f"{places} · {speed} · score: pair {part:+.2f}, **all pairs {total:+.2f}**"
        self.figure.alt = self.words.replace("*", "")
        return self.figure


def _dial(ax: Axes) -> list[tuple[Line2D, Line2D, Line2D]]:
    ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor=QUIET, linewidth=1))
    ax.set(xlim=(-1.15, 1.15), ylim=(-1.3, 1.15), aspect="equal", title="one pair of each")
    ax.axis("off")
    arrows = []
    for name, colour, at in (("query", BLUE, -0.55), ("key", RUST, 0.55)):
        shaft, left, right = (ax.plot([0, 0], [0, 1], color=colour, linewidth=3)[0] for _ in range(3))
        ax.text(at, -1.27, name, color=colour, ha="center")
        arrows.append((shaft, left, right))
    return arrows


def _point(arrow: tuple[Line2D, Line2D, Line2D], angle: float) -> None:
    """Turn an arrow (a shaft and two barbs) to an angle in radians."""
    shaft, left, right = arrow
    tip = np.array([math.cos(angle), math.sin(angle)])
    shaft.set_data([0, tip[0]], [0, tip[1]])
    for barb, side in ((left, 2.7), (right, -2.7)):
        end = tip + 0.17 * np.array([math.cos(angle + side), math.sin(angle + side)])
        barb.set_data([tip[0], end[0]], [tip[1], end[1]])


class RotaryClock(Exhibit):
    """The widget: sliders for the two positions, the pair, and a shift of both; arguments as for `Clock`."""

    def __init__(self, q: Array, k: Array, frequencies: Array, scale: float, name: str) -> None:
        self.clock = Clock(q, k, frequencies, scale, name)
        self.query = _slider("query at", 1, FARTHEST)
        self.key = _slider("key at", 0, FARTHEST)
        self.pair = _slider("pair", 0, len(self.clock.frequencies) - 1)
        self.shift = _slider("shift both", 0, 1000)
        self.words = HTML(layout=Layout(width="auto"))
        sliders = [self.query, self.key, self.pair, self.shift]
        view = live(self._draw, *sliders)
        picture = Clock(q, k, frequencies, scale, name).draw(1, 0, 0, 0)
        super().__init__([*sliders, view, self.words], title="Rotary clock", picture=picture)

    def _draw(self, query: int, key: int, pair: int, shift: int) -> Drawing:
        figure = self.clock.draw(query, key, pair, shift)
        self.words.value = card(inline(self.clock.words))
        return figure


def _slider(name: str, value: int, highest: int) -> IntSlider:
    layout, style = Layout(width="34em"), {"description_width": "6em"}
    return IntSlider(value=value, min=0, max=highest, description=name, layout=layout, style=style)
