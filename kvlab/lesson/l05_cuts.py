"""Lesson 05's widget: cut a text into calls and see which tokens come out wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipywidgets import HTML, Dropdown, IntSlider, Layout

from . import l05
from .style import BLUE, QUIET, RUST, Drawing, drawing, styled
from .tables import card, inline
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.doctor.patient import Seen
    from kvlab.model.decoder import Decoder

TOP = 100.0


def calls(first: int, size: int, total: int = l05.LENGTH) -> tuple[int, ...]:
    """One call of `first` tokens, then calls of `size`; the last may be shorter."""
    rest = total - first
    return (first, *(min(size, rest - i) for i in range(0, rest, size)))


class Bars:
    """The figure: a bar a token, and where the calls begin. `.draw(seen, sizes)` moves it."""

    def __init__(self) -> None:
        self._make()

    @styled
    def _make(self) -> None:
        self.figure, (ax,) = drawing(7.2, 2.7, alt="error of each token")
        self.bars = ax.bar(range(l05.LENGTH), [1] * l05.LENGTH, width=0.8, bottom=l05.FLOOR)
        self.edges = [ax.axvline(0, color=QUIET, linewidth=0.8, linestyle=":") for _ in range(l05.LENGTH)]
        ax.axhline(l05.SAME, color=QUIET, linewidth=0.8)
        right = ax.get_yaxis_transform()  # beside the bars, which may fill the whole height
        ax.text(1.005, l05.SAME, "above: wrong", fontsize=8, color=QUIET, va="center", transform=right)
        self.zeros = [
            ax.text(i, l05.FLOOR * 2, "0", fontsize=8, color=QUIET, ha="center") for i in range(l05.LENGTH)
        ]
        ax.set(yscale="log", ylim=(l05.FLOOR, TOP), xlim=(-0.6, l05.LENGTH - 0.4))
        ax.set_xticks(range(l05.LENGTH))
        ax.grid(visible=False, axis="x")
        ax.set_xlabel("token; dotted: a new call begins")
        ax.set_ylabel("largest |Δlogit|")

    def draw(self, seen: Seen, sizes: Sequence[int]) -> Drawing:
        """Bars for the gaps of a run, `sizes` for where its calls begin."""
        for bar, zero, gap in zip(self.bars, self.zeros, seen.gaps[0].tolist(), strict=True):
            zero.set_visible(gap <= l05.FLOOR)  # no place on a log axis
            bar.set_height(max(gap - l05.FLOOR, 0.0))
            bar.set_color(RUST if gap > l05.SAME else BLUE)
        starts = [sum(sizes[:i]) for i in range(1, len(sizes))]
        for i, edge in enumerate(self.edges):
            edge.set_visible(i < len(starts))
            if i < len(starts):
                edge.set_xdata([starts[i] - 0.5] * 2)
        return self.figure


class Cuts(Exhibit):
    """Choose a misuse and how the text is cut.

    lm: a small model in float64; names: the misuses offered, of the gallery, or `l05.RIGHT`.
    """

    def __init__(self, lm: Decoder, names: Sequence[str], first: int = 6, size: int = 1) -> None:
        self.patients = {name: l05.patient(lm, name) for name in names}
        wide = {"description_width": "8em"}
        self.misuse = Dropdown(options=list(names), description="misuse", style=wide)
        layout = Layout(width="34em")
        self.first = IntSlider(first, 1, l05.LENGTH, description="first call", style=wide, layout=layout)
        self.size = IntSlider(size, 1, 6, description="then calls of", style=wide, layout=layout)
        self.words = HTML(layout=Layout(width="auto"))
        self.bars = Bars()
        view = live(self._draw, self.misuse, self.first, self.size)
        super().__init__(
            [self.misuse, self.first, self.size, view, self.words],
            title="Cut a text into calls, and see which tokens come out wrong",
            picture=lambda: self._drawn(names[0], calls(first, size)),
        )

    def _draw(self, name: str, first: int, size: int) -> Drawing:
        sizes = calls(first, size)
        seen = l05.passed(self.patients[name], sizes)
        self.words.value = card(inline(told(name, seen, sizes)))
        figure = self.bars.draw(seen, sizes)
        figure.alt = told(name, seen, sizes).replace("*", "")
        return figure

    def _drawn(self, name: str, sizes: Sequence[int]) -> Drawing:
        seen = l05.passed(self.patients[name], sizes)
        figure = Bars().draw(seen, sizes)
        figure.alt = told(name, seen, sizes).replace("*", "")
        return figure


def told(name: str, seen: Seen, sizes: Sequence[int]) -> str:
    """The finding in words."""
    wrong = [i for i, gap in enumerate(seen.gaps[0].tolist()) if gap > l05.SAME]
    cut = " + ".join(map(str, sizes))
    if not wrong:
        return f"{name}, calls of {cut}: **every token is right**"
    total = len(seen.gaps[0])
    return f"{name}, calls of {cut}: **wrong from token {wrong[0]} on**, {len(wrong)} of {total} tokens"
