"""Lesson 00: the machine, next words as a widget, work with and without a cache, the map of the course."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from ipywidgets import IntSlider
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from kvlab.measure.machine import cpu_name, memory_bytes, usable_cores, versions

from . import memory
from .figures import bars
from .session import CORE, LESSONS, device
from .style import BLUE, GRID, INK, QUIET, Drawing, drawing, styled
from .tables import card, plain_table, token_html
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.model import Decoder

GIB = 2**30
PALE = "#C9D4F2"  # behind what is given or filled, under dark text
ENOUGH_BYTES = 4 * GIB  # a kernel of lessons 00 to 03 holds well under half of it


@dataclass(frozen=True)
class Machine:
    """What a lesson runs on, as a table of (what, found, remark)."""

    rows: tuple[tuple[str, str, str], ...]

    def __repr__(self) -> str:
        said = [(f"{what}: {found}", f" ({remark})" if remark else "") for what, found, remark in self.rows]
        return "\n".join(map("".join, said))

    def _repr_html_(self) -> str:
        return plain_table(self.rows, ("", "found", "remark"), caption="This machine")


def machine() -> Machine:
    """Processor, memory, GPU and versions of this machine, and where the learner's answers are kept."""
    size = memory_bytes()
    known = versions()
    has_gpu = torch.cuda.is_available()
    rows = [
        ("processor", f"{cpu_name()}, {usable_cores()} cores", ""),
        ("memory", "unknown" if size is None else f"{size / GIB:.0f} GiB", _memory_remark(size)),
        ("GPU", torch.cuda.get_device_name() if has_gpu else "none", "" if has_gpu else "not needed"),
        ("lessons run on", device(), ""),
        ("versions", ", ".join(f"{name} {known[name]}" for name in ("python", "torch", "kvlab")), ""),
        (
            "your answers",
            "kept in `work/.kvlab`" if memory.work_folder() else "kept until this kernel stops",
            "" if memory.work_folder() else "`make lab` keeps them on disk",
        ),
    ]
    return Machine(tuple(rows))


def _memory_remark(size: int | None) -> str:
    if size is None or size >= ENOUGH_BYTES:
        return ""
    return f"less than {ENOUGH_BYTES // GIB} GiB: close what else needs much"


class NextWords(Exhibit):
    """A slider over a text: which words the model expects after its first 1, 2, … tokens.

    One forward call over the whole text gives the answer at every length; the slider only looks it up.
    `.shown` is the slider, `.view.html.value` what is shown.
    """

    def __init__(self, lm: Decoder, text: str, count: int = 5) -> None:
        ids = lm.tokenizer.encode(text)
        self.tokens = [lm.tokenizer.decode([i]) for i in ids]
        chances = lm(torch.tensor([ids], device=lm.device))[0].softmax(-1)  # [tokens, vocab]
        best = chances.topk(count, dim=-1)
        self.percent = (100 * best.values).cpu()  # [tokens, count]
        self.words = [[lm.tokenizer.decode([i]) for i in row] for row in best.indices.tolist()]
        self.shown = IntSlider(description="tokens", min=1, max=len(ids), value=len(ids))
        self.view = live(self._say, self.shown)
        title = f"Next words after each token of {text!r}"
        super().__init__([self.shown, self.view], title=title, picture=self.picture)

    def picture(self) -> Drawing:
        """The expected words after the whole text."""
        return bars(self.words[-1], self.percent[-1], label=f"chance to follow “{''.join(self.tokens)}” (%)")

    def _say(self, shown: int) -> str:
        text = "".join(_piece(token, i < shown) for i, token in enumerate(self.tokens))
        guesses = zip(self.words[shown - 1], self.percent[shown - 1].tolist(), strict=True)
        rows = "".join(_guess(word, percent) for word, percent in guesses)
        return card(f'<div>{text}</div><table style="margin-top:8px;color:{INK}">{rows}</table>')


def _piece(token: str, given: bool) -> str:
    look = f"background:{PALE};color:{INK}" if given else f"color:{QUIET}"
    return f'<span style="{look};padding:2px 3px;margin:1px;white-space:pre">{token_html(token)}</span>'


def _guess(word: str, percent: float) -> str:
    bar = f'<div style="background:{BLUE};height:10px;width:{max(1, round(2 * percent))}px"></div>'
    number = f'<td style="text-align:right;padding:0 8px">{percent:.0f} %</td>'
    return f'<tr><td style="font-family:monospace">{token_html(word)}</td>{number}<td>{bar}</td></tr>'


@styled
def work(naive: Sequence[int], cached: Sequence[int]) -> Drawing:
    """Two grids, step by token: which rows each step computes anew, and which a cache has kept.

    naive, cached: token rows computed by each step, as `rows_computed` counts them.
    """
    ends = [sum(cached[: i + 1]) for i in range(len(cached))]  # tokens of the text at each step
    titles = (f"without a cache: {sum(naive):,} rows", f"with a cache: {sum(cached):,} rows")
    alt = f"{len(naive)} steps; {titles[0]}, {titles[1]} computed"
    figure, axes = drawing(8.6, 0.6 + 0.17 * len(naive), alt=alt, columns=2, sharey=True)
    for ax, computed, title in zip(axes, (naive, cached), titles, strict=True):
        for step, (count, end) in enumerate(zip(computed, ends, strict=True)):
            for token in range(end):
                new = token >= end - count
                colour = BLUE if new else GRID
                ax.add_patch(Rectangle((token + 0.08, step + 0.08), 0.84, 0.84, color=colour, linewidth=0))
        ax.set(xlim=(0, ends[-1]), ylim=(len(computed), 0), xlabel="token", title=title)
        ax.grid(False)
        ax.set_yticks([0.5, len(computed) - 0.5], ["1", str(len(computed))])
        ax.set_xticks([0.5, ends[0] - 0.5, ends[-1] - 0.5], ["1", str(ends[0]), str(ends[-1])])
    axes[0].set_ylabel("step")
    return figure


PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("From text\nto a cache", ("00", "01", "02", "03")),
    ("Use it right", ("04", "05", "06")),
    ("Where entries\nlive", ("07", "08", "09", "10", "11")),
    ("Fewer bits\nan entry", ("12", "13", "14", "15")),
    ("Fewer entries\nkept", ("16",)),
    ("Fewer entries\nread", ("17", "18", "19")),
    ("All together", ("20",)),
)


@styled
def course_map() -> Drawing:
    """All lessons, part by part from the top; the core path is filled."""
    alt = f"{len(LESSONS)} lessons in {len(PARTS)} parts; the core path: {', '.join(CORE)}"
    figure, (ax,) = drawing(9.6, 6.2, alt=alt)
    for row, (part, lessons) in enumerate(PARTS):
        ax.text(-0.08, row + 0.45, part, ha="right", va="center", fontsize=10, fontweight="bold")
        for column, lesson in enumerate(lessons):
            _box(ax, column, row, lesson)
    ax.set(xlim=(-1.0, 5), ylim=(len(PARTS), 0))
    ax.set_axis_off()
    ax.set_title("Filled: the core path. Outlined: side trips.", fontsize=10)
    return figure


def _box(ax: Axes, column: int, row: int, lesson: str) -> None:
    fill = PALE if lesson in CORE else "none"
    place = (column + 0.02, row + 0.05)
    ax.add_patch(Rectangle(place, 0.95, 0.8, facecolor=fill, edgecolor=BLUE, linewidth=1.2))
    text = "\n".join(textwrap.wrap(f"{lesson} {LESSONS[lesson]}", 23, break_on_hyphens=False))
    ax.text(column + 0.06, row + 0.45, text, va="center", fontsize=8)
