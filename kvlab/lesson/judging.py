"""Claims of articles (paraphrased): the learner judges first, then the measurement does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ipywidgets import HTML, ToggleButtons, VBox

from . import memory
from .tables import card, inline, plain_table
from .widgets import Exhibit

Verdict = Literal["true", "false", "depends"]
VERDICTS: tuple[Verdict, ...] = ("true", "false", "depends")
_NOT_JUDGED = "–"


class Judge(Exhibit):
    """One row of buttons for each claim; `.buttons["name"].value = "false"` judges."""

    def __init__(self, id: str, claims: Mapping[str, str]) -> None:
        memory.check_id(id)
        self.id, self.claims = id, dict(claims)
        self.saved = HTML()
        before = _judged(id)
        self.buttons: dict[str, ToggleButtons] = {}
        rows = []
        for name, claim in self.claims.items():
            buttons = ToggleButtons(options=VERDICTS, value=before.get(name), style={"button_width": "6em"})
            buttons.observe(lambda _change: self._keep(), names="value")
            self.buttons[name] = buttons
            rows.append(VBox([HTML(card(inline(claim))), buttons]))
        claims_list = "".join(f"<li>{inline(claim)}</li>" for claim in self.claims.values())
        html = card(f"<strong>True, false, or does it depend?</strong><ol>{claims_list}</ol>")
        super().__init__([*rows, self.saved], title=f"Judge {len(self.claims)} claims", html=html)

    def _keep(self) -> None:
        verdicts = {name: b.value for name, b in self.buttons.items() if b.value is not None}
        memory.keep(self.id, {"claims": self.claims, "verdicts": verdicts})
        self.saved.value = card(f"{len(verdicts)} of {len(self.claims)} judged")


def _judged(id: str) -> dict[str, Verdict]:
    """The learner's verdicts so far; unknown words (a file from elsewhere) are dropped."""
    verdicts = (memory.recall(id) or {}).get("verdicts", {})
    return {name: v for name, v in verdicts.items() if v in VERDICTS}


def judge(id: str, claims: Mapping[str, str]) -> Judge:
    """Let the learner judge claims: `judge("03.claims", {"query": "Only the query … is computed.", …})`."""
    return Judge(id, claims)


@dataclass(frozen=True)
class Judged:
    """A table of claims: the learner's verdict, the measured one, and the evidence."""

    rows: tuple[tuple[str, str, str, str], ...]

    def __repr__(self) -> str:
        return "; ".join(f"{claim}: measured {verdict}" for claim, _, verdict, _ in self.rows)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        columns = ("claim", "you", "measured", "evidence")
        table = plain_table(self.rows, columns, caption="Claims against measurements")
        return {"text/html": table, "text/plain": repr(self)}


def judged(id: str, claims: Mapping[str, str], measured: Mapping[str, tuple[Verdict, str]]) -> Judged:
    """The learner's verdicts beside the measured ones; tag this cell `reveal`.

    `measured` gives each claim's verdict and its evidence, a clause with the numbers just computed (rounded,
    so that another machine prints the same). Raises ValueError unless it has exactly the claims' names.
    """
    if set(measured) != set(claims):
        raise ValueError(f"measured has {sorted(measured)}, the claims are {sorted(claims)}")
    mine = _judged(id)
    rows = []
    for name, claim in claims.items():
        verdict, evidence = measured[name]
        if verdict not in VERDICTS:
            raise ValueError(f"the verdict on {name!r} is {verdict!r}; write true, false or depends")
        mark = _NOT_JUDGED if name not in mine else f"{mine[name]} {'✓' if mine[name] == verdict else '✗'}"
        rows.append((claim, mark, verdict, evidence))
    return Judged(tuple(rows))
