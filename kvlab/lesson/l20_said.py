"""All that a learner predicted in the course, beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .l20_figures import predictions_figure
from .predicting import Question, predictions
from .tables import card, inline, plain_table
from .widgets import picture_html

NOTHING = (
    "No prediction has been locked in and revealed here yet. Work through the lessons in `make lab`, lock "
    "predictions in, and run this cell again."
)


@dataclass(frozen=True)
class Said:
    """`.rows` has a line for each prediction that was revealed: id, question, both values, verdict."""

    entries: tuple[Mapping[str, Any], ...]

    @property
    def numbers(self) -> list[Mapping[str, Any]]:
        """Those of numbers above zero, which can be compared as a ratio."""
        return [e for e in self.entries if not e["choices"] and min(e["value"], e["measured"]) > 0]

    @property
    def rows(self) -> list[list[str]]:
        return [_row(entry) for entry in self.entries]

    @property
    def text(self) -> str:
        """How it went, in a sentence or two."""
        if not self.entries:
            return NOTHING
        chosen = [e for e in self.entries if e["choices"]]
        right = sum(e["value"] == e["measured"] for e in chosen)
        said = [f"{right} of {len(chosen)} choices were right."] if chosen else []
        if self.numbers:
            off = [abs(math.log(e["value"] / e["measured"])) for e in self.numbers]
            near = sum(x < math.log(1.5) for x in off)
            said.append(
                f"{near} of {len(off)} numbers were within a factor of 1.5; the median was "
                f"{math.exp(statistics.median(off)):.1f} times off."
            )
        return " ".join(said)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if not self.entries:
            return {"text/plain": self.text, "text/html": card(inline(self.text))}
        table = plain_table(
            self.rows, ["", "question", "you", "measured", ""], caption="All your predictions."
        )
        picture = picture_html(predictions_figure(self.numbers)) if self.numbers else ""
        return {"text/plain": self.text, "text/html": card(inline(self.text)) + picture + table}


def _row(entry: Mapping[str, Any]) -> list[str]:
    fields = {name: entry[name] for name in Question.__dataclass_fields__ if name in entry}
    question = Question(**{**fields, "choices": tuple(entry["choices"])})
    mine, measured = entry["value"], entry["measured"]
    if question.choices:
        verdict = "right" if mine == measured else "no"
    elif min(mine, measured) > 0:
        verdict = f"{max(mine / measured, measured / mine):.1f} times"
    else:
        verdict = ""
    return [question.id, question.text, question.say(mine), question.say(measured), verdict]


def said(entries: Sequence[Mapping[str, Any]] | None = None) -> Said:
    """The page of predictions; None: those of this learner. Only those that were revealed are on it."""
    known = predictions() if entries is None else entries
    return Said(tuple(entry for entry in known if "measured" in entry))
