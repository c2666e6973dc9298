"""`quiz("03")`: three questions; a click explains that answer at once."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipywidgets import HTML, Layout, RadioButtons, VBox

from .style import GREEN, RUST
from .tables import card, inline
from .widgets import Exhibit


@dataclass(frozen=True)
class Item:
    """One question. `choices` has for each answer the sentence that explains why it is right or wrong.

    Args:
        question: the question.
        choices: answer -> explanation, the right one anywhere: the order shown is shuffled, always equally.
        answer: the right answer's text.
        back: "01" where the question repeats an earlier lesson.
    """

    question: str
    choices: dict[str, str]
    answer: str
    back: str = ""

    def __post_init__(self) -> None:
        if self.answer not in self.choices:
            raise ValueError(f"the answer {self.answer!r} is not among the choices of {self.question!r}")

    @property
    def shown(self) -> list[str]:
        """The answers in the order they are shown."""
        order = list(self.choices)
        random.Random(self.question).shuffle(order)
        return order


class Quiz(Exhibit):
    """Radio buttons for each item; `.radios[i].value = …` answers, `.notes[i].value` is the explanation."""

    def __init__(self, lesson: str, items: Sequence[Item]) -> None:
        self.items = list(items)
        self.radios = [
            RadioButtons(options=item.shown, value=None, layout=Layout(width="max-content")) for item in items
        ]
        self.notes = [HTML() for _ in items]
        self.score = HTML()
        rows = []
        for number, (item, radio, note) in enumerate(zip(items, self.radios, self.notes, strict=True), 1):
            ask = HTML(card(f"<strong>{number}.</strong> {inline(item.question)}{_from(item)}"))
            radio.observe(lambda _change, i=number - 1: self._answered(i), names="value")
            rows.append(VBox([ask, radio, note]))
        html = card(_static(self.items))
        super().__init__([*rows, self.score], title=f"Quiz of lesson {lesson}", html=html)

    def _answered(self, i: int) -> None:
        item, chosen = self.items[i], self.radios[i].value
        if chosen is None:
            self.notes[i].value = ""
            return
        right = chosen == item.answer
        text = f"**{'Right.' if right else 'No.'}** {item.choices[chosen]}"
        self.notes[i].value = card(inline(text), GREEN if right else RUST)
        count = sum(r.value == item.answer for r, item in zip(self.radios, self.items, strict=True))
        self.score.value = card(f"{count} of {len(self.items)} right")


def _from(item: Item) -> str:
    return f" <em>(from lesson {inline(item.back)})</em>" if item.back else ""


def _static(items: Sequence[Item]) -> str:
    """The questions and answers without saying which is right: run the cell to find out."""
    lines = []
    for item in items:
        answers = "".join(f"<li>{inline(choice)}</li>" for choice in item.shown)
        lines.append(f"<li>{inline(item.question)}{_from(item)}<ul>{answers}</ul></li>")
    return f"<strong>Quiz.</strong> Run this cell to answer.<ol>{''.join(lines)}</ol>"


def quiz_ids() -> list[str]:
    """Lessons that have a quiz file `quizzes/qNN.py`."""
    return sorted(f.stem[1:] for f in (Path(__file__).parent / "quizzes").glob("q[0-9][0-9].py"))


def quiz(lesson: str, items: Sequence[Item] | None = None) -> Quiz:
    """The quiz of a lesson, from `quizzes/qNN.py` (or with the items given).

    Raises LookupError where there is no such file.
    """
    if items is None:
        if lesson not in quiz_ids():
            known = ", ".join(quiz_ids()) or "none yet"
            raise LookupError(f"there is no quiz {lesson!r}; there are: {known}")
        items = importlib.import_module(f"kvlab.lesson.quizzes.q{lesson}").QUIZ
    return Quiz(lesson, items)
