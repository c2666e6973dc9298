"""Predict, then see: `predict` asks before the measurement, `reveal` draws the learner's mark beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ipywidgets import HTML, Button, FloatLogSlider, FloatSlider, HBox, Layout, RadioButtons

from . import memory
from .style import BLUE, GREEN, INK, QUIET, RUST, Drawing, drawing, number, styled, tick
from .tables import card, inline
from .widgets import Exhibit, picture_html

UNLOCKED = "Nothing locked in here yet: lock in your prediction above, then run this cell again."


@dataclass(frozen=True)
class Question:
    """One prediction: a choice among texts, or a number on a (log) scale from `low` to `high`."""

    id: str
    text: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = True
    unit: str = ""
    whole: bool = False  # a count: the slider stops at whole numbers

    def say(self, value: Any) -> str:
        """A value of this question in words: the choice, or the number with its unit."""
        return str(value) if self.choices else with_unit(float(value), self.unit)


def with_unit(value: float, unit: str) -> str:
    """A number for people: about three digits, thousands separated, and its unit (× and % stick to it)."""
    text = number(value)
    return f"{text}{unit}" if unit in {"×", "%"} else f"{text} {unit}".rstrip()


class Prediction(Exhibit):
    """Radio buttons or a slider with "Lock in". `.answer` is the control, `.lock` the button."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answer = _control(question)
        self._answered = False
        self.answer.observe(self._note, "value")
        self.lock = Button(
            description="Lock in",
            tooltip="Your prediction can't be changed afterwards",
            layout=Layout(margin="2px 2px 2px 2em"),
        )
        self.status = HTML()
        self.lock.on_click(lambda _button: self._lock_in())
        ask = HTML(card(f"<strong>Predict.</strong> {inline(question.text)}"))
        super().__init__(
            [ask, HBox([self.answer, self.lock]), self.status],
            title=f"Predict: {question.text}",
            html=card(_static(question)),
        )
        entry = memory.recall(question.id)
        if entry is not None and entry.get("text") == question.text:
            self._show_locked(entry["value"], "earlier")

    def _note(self, _change: object) -> None:
        self._answered = True

    def _lock_in(self) -> None:
        if not self._answered:
            first = "Choose one first." if self.question.choices else "Move the slider first."
            self.status.value = card(first)
            return
        value = self.answer.value
        if self.question.whole:
            value = float(round(value))
        saved = memory.keep(self.question.id, {**asdict(self.question), "value": value})
        self._show_locked(value, "" if saved else "for as long as this kernel runs")

    def _show_locked(self, value: Any, when: str) -> None:
        self.answer.value = value
        self.answer.disabled = self.lock.disabled = True
        said = inline(self.question.say(value))
        self.status.value = card(f"Locked in{' ' if when else ''}{when}: <strong>{said}</strong>", BLUE)


def _control(question: Question) -> RadioButtons | FloatSlider | FloatLogSlider:
    """A slider starts at its low end: a start in the middle would be taken for a hint."""
    if question.choices:
        layout = Layout(width="max-content")
        return RadioButtons(options=list(question.choices), value=None, layout=layout)
    shown = ",.0f" if question.whole else ",.3r"
    shared = {"readout_format": shown, "description": question.unit, "layout": Layout(width="28em")}
    if question.log:
        low, high = math.log10(question.low), math.log10(question.high)
        return FloatLogSlider(value=question.low, min=low, max=high, step=(high - low) / 200, **shared)
    step = (question.high - question.low) / 200
    return FloatSlider(value=question.low, min=question.low, max=question.high, step=step, **shared)


def _static(question: Question) -> str:
    ask = f"<strong>Predict.</strong> {inline(question.text)}"
    if question.choices:
        return ask + "<ul>" + "".join(f"<li>{inline(c)}</li>" for c in question.choices) + "</ul>"
    ends = f"{with_unit(question.low, question.unit)} … {with_unit(question.high, question.unit)}"
    return f"{ask}<br>A number, {ends}{' (log scale)' if question.log else ''}"


def predict(
    id: str,
    question: str,
    *,
    choices: Sequence[str] = (),
    slider: tuple[float, float] | None = None,
    log: bool = True,
    unit: str = "",
    whole: bool = False,
) -> Prediction:
    """Ask for a prediction: `choices=[…]`, or `slider=(low, high)` with a `unit` (log scale by default).

    `whole=True` for a count, say of tokens: nobody predicts half a token.

    Raises ValueError if the id is not like "03.speed", or not exactly one of choices and slider is given.
    """
    memory.check_id(id)
    if bool(choices) == (slider is not None):
        raise ValueError("give either choices=[…] or slider=(low, high)")
    low, high = slider or (0.0, 0.0)
    if slider is not None and not (low < high and (low > 0 or not log)):
        raise ValueError(f"slider=({low}, {high}): low must be under high, and above 0 on a log scale")
    return Prediction(Question(id, question, tuple(choices), float(low), float(high), log, unit, whole))


@dataclass(frozen=True)
class Revealed:
    """What `reveal` shows: one fixed line until locked in, then the comparison (and a drawing of numbers)."""

    text: str
    colour: str = QUIET
    picture: Drawing | None = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        body = inline(self.text) + (f"<br>{picture_html(self.picture)}" if self.picture else "")
        return {"text/plain": self.text, "text/html": card(body, self.colour)}


def reveal(id: str, measured: float | str) -> Revealed:
    """Put the measurement beside what the learner locked in under `id`; tag this cell `reveal`.

    For choices, `measured` is the text of the right choice. Not locked in: `UNLOCKED`, whatever was
    measured. The measurement is kept beside the prediction, for lesson 20.
    """
    entry = memory.recall(id)
    if entry is None:
        return Revealed(UNLOCKED)
    fields = {k: v for k, v in entry.items() if k in Question.__dataclass_fields__}
    question = Question(**{**fields, "choices": tuple(fields.get("choices", ()))})
    if question.choices and measured not in question.choices:
        raise ValueError(f"{measured!r} is not one of the choices {list(question.choices)}")
    memory.keep(id, {**entry, "measured": measured})
    mine = entry["value"]
    if question.choices:
        right = mine == measured
        verdict = "as you predicted" if right else f"you predicted: {mine}"
        return Revealed(f"Measured: **{measured}** ({verdict}).", GREEN if right else RUST)
    text = _compare(float(mine), float(measured), question)
    return Revealed(text, BLUE, number_line(float(mine), float(measured), question, text))


def _compare(mine: float, measured: float, question: Question) -> str:
    said, got = question.say(mine), question.say(measured)
    line = f"You predicted {said}; measured {got}"
    if mine <= 0 or measured <= 0:
        return f"{line}."
    ratio = max(mine / measured, measured / mine)
    if ratio < 1.1:
        return f"{line}: within a tenth."
    return f"{line}: {number(float(f'{ratio:.2g}'))} times too {'high' if mine > measured else 'low'}."


@styled
def number_line(mine: float, measured: float, question: Question, alt: str) -> Drawing:
    """The learner's mark and the measured one on the question's own scale."""
    figure, (axes,) = drawing(6.4, 1.5, alt=alt)
    axes.set_xscale("log" if question.log else "linear")
    axes.set_xlim(min(question.low, measured), max(question.high, measured))
    axes.set_ylim(-1, 1)
    axes.axhline(0, color=INK, linewidth=1)
    for value, height, name, colour in ((mine, 0.3, "you", BLUE), (measured, -0.3, "measured", RUST)):
        axes.plot([value], [0], marker="v" if height > 0 else "^", markersize=11, color=colour, clip_on=False)
        where = "bottom" if height > 0 else "top"
        label = f"{name}: {question.say(value)}"
        side = _side(value, axes.get_xlim(), question.log)
        axes.text(value, height, label, color=colour, ha=side, va=where)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(tick)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel({"": "value", "×": "times"}.get(question.unit, question.unit))
    return figure


def _side(value: float, limits: tuple[float, float], log: bool) -> str:
    """Where a label hangs so that it stays inside the picture."""
    low, high, at = (math.log10(v) if log else v for v in (*limits, value))
    share = (at - low) / (high - low)
    return "left" if share < 0.25 else "right" if share > 0.75 else "center"


def predictions() -> list[dict[str, Any]]:
    """All locked predictions so far, with `measured` where it was revealed: what lesson 20 plots."""
    return [entry for entry in memory.recall_all().values() if "value" in entry and "choices" in entry]
