"""The misuse theatre: pick a misuse, move through the new tokens, see it beside the right way."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from ipywidgets import Dropdown, HBox, IntSlider, Layout
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, NullLocator

from kvlab.doctor.gallery import GALLERY, Damage
from kvlab.doctor.gallery.damage import Side

from .l04 import Stage
from .l04_figures import FLOOR, ROUNDING, errors, head_image, places, rows, scale_bar
from .style import GREEN, QUIET, RUST, THEORY, Drawing, drawing, styled, token_text
from .tables import card, inline, token_html
from .widgets import Exhibit, live

# Not on stage: two that change no number, and one that needs a model with learned positions.
OFFSTAGE = ("gradients-kept", "rounding", "padding-without-positions")
PLAYS = tuple(name for name in GALLERY if name not in OFFSTAGE)


class Scenery:
    """Four panels that are drawn once and then only changed: positions, error, and one head twice."""

    @styled
    def __init__(self, stage: Stage):
        self.stage, new = stage, stage.new
        self.figure, self.panels = drawing(9.2, 4.9, alt="the misuse theatre", rows=2, columns=2)
        ladder, error, *maps = self.panels
        _name_axes(ladder, error, new)
        calls, blank = np.arange(1, new + 1), np.full(new, np.nan)
        self.true = ladder.plot(calls, blank, color=GREEN, zorder=3, **THEORY)[0]
        self.used = ladder.plot(calls, blank, color=RUST, marker="o", markersize=4)[0]
        self.wrong = error.plot(calls, blank, color=RUST, marker="o", markersize=4)[0]
        rows_of: tuple[list[str], list[str]] = (
            ["␣" * 6] * new,
            [],
        )  # both maps have the same rows: one set of labels is enough
        self.images = [
            head_image(ax, np.full((new, 1), np.nan), t) for ax, t in zip(maps, rows_of, strict=True)
        ]
        for ax, title in zip(maps, ("one head, right", "the same head, wrong"), strict=True):
            ax.set_title(title, fontsize=10)
        maps[0].set_ylabel("query")
        scale_bar(self.figure, self.images[0], maps)

    def show(self, name: str, upto: int) -> Drawing:
        """The figure with the first `upto` new tokens of a misuse."""
        found = self.stage[name]
        new = len(found.error)
        ladder, error, *maps = self.panels
        self._lines(found, min(upto, new))
        highest = max([*places(found.right, new), *places(found.wrong, new), 1])
        ladder.set_ylim(-0.06 * highest, 1.12 * highest)
        tokens = [token_text(self.stage.lm.tokenizer.token(call[-1])) for call in found.right.ids[-new:]]
        for image, side in zip(self.images, (found.right, found.wrong), strict=True):
            self._map(image, side, new, upto)
        maps[0].set_yticks(range(len(tokens)), tokens)
        seen = len(rows(found.wrong, new)) > 0
        # Drawn outside of `styled`, so the look has to be said.
        words = "the same head, wrong" if seen else "its layer is skipped in some calls"
        maps[1].set_title(words, loc="left", fontsize=10, fontweight="bold")  # `styled` is not at work here
        self.figure.alt = (
            f"{GALLERY[name].title}: positions, logit error and one attention head, wrong beside right"
        )
        return self.figure

    def _lines(self, found: Damage, upto: int) -> None:
        new = len(found.error)
        shown = np.arange(1, self.stage.new + 1) <= upto
        for line, side in ((self.true, found.right), (self.used, found.wrong)):
            line.set_ydata(np.where(shown, _filled(places(side, new), self.stage.new), np.nan))
        self.wrong.set_ydata(np.where(shown, _filled(errors(found), self.stage.new), np.nan))

    def _map(self, image: AxesImage, side: Side, new: int, upto: int) -> None:
        weights = rows(side, new)[:upto]
        full = np.full((self.stage.new, weights.shape[1] or self.stage.new), np.nan)
        full[: len(weights), : weights.shape[1]] = weights
        image.set_data(full)
        image.set_extent((-0.5, full.shape[1] - 0.5, len(full) - 0.5, -0.5))


def _filled(values: Any, length: int) -> np.ndarray:
    return np.pad(np.asarray(values, dtype=float), (0, length - len(values)), constant_values=np.nan)


def _name_axes(ladder: Axes, error: Axes, new: int) -> None:
    ladder.set_title("newest token: its position", fontsize=10)
    ladder.set_ylabel("position (tokens)")
    ladder.set_title("dashed: the right way", loc="right", fontsize=8.5, fontweight="normal", color=QUIET)
    error.set_title("largest error of a logit", fontsize=10)
    error.set_yscale("log")
    error.yaxis.set_minor_locator(NullLocator())
    error.set_yticks([FLOOR, ROUNDING, 1, 100], ["0.000001", "0.001", "1", "100"])  # formulas draw slowly
    error.set_ylim(FLOOR / 2, 200)
    error.axhspan(FLOOR / 2, ROUNDING, color=QUIET, alpha=0.12, linewidth=0)
    error.text(new + 0.3, ROUNDING / 2, "rounding", ha="right", va="top", fontsize=8.5, color=QUIET)
    ladder.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for ax in (ladder, error):
        ax.set_xlim(0.5, new + 0.5)
        ax.set_xlabel("new token")


def said(stage: Stage, name: str, upto: int) -> str:
    """What both write, token by token, and what the misuse is, as HTML."""
    misuse, found = GALLERY[name], stage[name]
    right, wrong = found.right.tokens[:upto], found.wrong.tokens[:upto]
    same = next(
        (i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), min(len(right), len(wrong))
    )
    lines = [
        f"<b>{inline(misuse.title)}</b>. {inline(misuse.symptom)}",
        f"right: {_tokens(stage, right, len(right))}",
        f"wrong: {_tokens(stage, wrong, same)}",
        f"<b>Why.</b> {inline(misuse.why)} <b>Fix.</b> {inline(misuse.fix)}",
    ]
    return card("<br>".join(lines))


def _tokens(stage: Stage, tokens: list[int], same: int) -> str:
    """The text of tokens; those from index `same` on in rust."""
    texts = [token_html(stage.lm.tokenizer.token(i)).replace("␣", " ") for i in tokens]
    other = f'<span style="color:{RUST};font-weight:bold">{"".join(texts[same:])}</span>'
    return f'<code style="background:none">{"".join(texts[:same])}{other}</code>'


class Theatre(Exhibit):
    """`.play` (dropdown) and `.token` (slider) choose; `.text.html` and `.view.html` show."""

    def __init__(self, stage: Stage, play: str, upto: int | None = None) -> None:
        stage.fill(PLAYS)
        plays = [(f"{GALLERY[name].title}", name) for name in PLAYS]
        wide = Layout(width="440px")
        self.play = Dropdown(description="misuse", options=plays, value=play, layout=wide)
        self.token = IntSlider(description="new token", min=1, max=stage.new, value=upto or stage.new)
        scenery = Scenery(stage)
        self.text = live(functools.partial(said, stage), self.play, self.token)
        self.view = live(scenery.show, self.play, self.token)
        title = "Misuse theatre: pick a misuse, see it beside the right way"
        picture = functools.partial(Scenery(stage).show, play, upto or stage.new)
        super().__init__([HBox([self.play, self.token]), self.text, self.view], title=title, picture=picture)


def theatre(stage: Stage, play: str = "positions-restart") -> Theatre:
    """The widget over a `Stage`, which runs what has not run yet."""
    return Theatre(stage, play)
