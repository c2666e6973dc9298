"""The widget of lesson 20: a budget for a text of some length, and what of all that is recorded fits."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ipywidgets import Dropdown, FloatLogSlider, SelectionSlider, ToggleButtons

from kvlab.measure.plan import plan

from .chart_points import Point
from .l20_figures import budget_figure
from .style import BLUE, GRID, RUST, Drawing
from .tables import card, inline, plain_table
from .widgets import Exhibit, live

MODELS = ("smollm2-135m", "llama3-8b", "llama2-7b")
TOKENS = (512, 2048, 8192, 32_768, 131_072)
TASKS = ("keep going", "answer", "copy")
KNOBS = {
    "quantization": "codec", "rotation": "codec", "sparse": "codec", "entropy": "codec", "low rank": "codec",
    "eviction": "eviction", "merging": "eviction", "random": "eviction", "selection": "selection",
    "learned": "selection", "combined": "several", "reference": "none",
}  # fmt: skip
SHOWN = 10


@dataclass(frozen=True)
class Budget:
    """Bytes for the cache of one text."""

    model: str
    tokens: int
    megabytes: float

    @property
    def full(self) -> int:
        """Bytes of a cache in 16 bits, by the planner."""
        return plan(self.model, self.tokens).cache_bytes

    @property
    def share(self) -> float:
        """The budget as a share of that."""
        return 1e6 * self.megabytes / self.full

    @property
    def said(self) -> str:
        """The share in words."""
        if self.share > 1:
            return "more than 16 bits need"
        return f"{self.share:.0%}" if self.share >= 0.01 else "less than 1%"


def fitting(found: Mapping[str, Point], share: float, task: str) -> list[Point]:
    """Methods that hold no more than a share of 16 bits, the best for a task first; oracles are left out."""
    whole = found["full"].stored
    fits = [p for p in found.values() if p.stored <= share * whole and p.family != "oracle"]

    def order(p: Point) -> tuple[float, float]:
        if task == "answer":
            return -p.right / p.asked, p.interval.mean
        copied = -1.0 if math.isnan(p.copied) else p.copied  # not measured: last
        return (-copied, p.interval.mean) if task == "copy" else (p.interval.mean, p.stored)

    return sorted(fits, key=order)


def shown(found: Mapping[str, Point], model: str, tokens: int, megabytes: float, task: str) -> str:
    """The budget, what fits, and what it costs, as HTML."""
    budget = Budget(model, tokens, megabytes)
    fits = fitting(found, budget.share, task)
    whole = found["full"].stored
    line = (
        f"In 16 bits {budget.full / 1e6:,.1f} MB, {budget.full // tokens:,} bytes a token. The budget is "
        f"{1e6 * megabytes / tokens:,.0f} bytes a token, **{budget.said}**: {len(fits)} of "
        f"{len(found)} recorded methods fit."
    )
    if not fits:
        return card(inline(line), RUST) + card(
            inline("Nothing recorded is as small. Allow more, or fewer tokens.")
        )
    rows = [
        [p.method, KNOBS.get(p.family, ""), f"{p.stored / whole * budget.full / 1e6:,.1f}", f"{p.read:.0%}",
         "0" if p.exact else f"{p.interval.mean:.3f}", f"{p.right} of {p.asked}",
         "not measured" if math.isnan(p.copied) else f"{p.copied:.2f}"]
        for p in fits[:SHOWN]
    ]  # fmt: skip
    names = ["method", "knob", "MB held", "read a step", "KL", "needles", "copied"]
    caption = f"The best {len(rows)} for: {task}."
    return card(_bar(budget.share) + inline(line), BLUE) + plain_table(rows, names, caption=caption)


def _bar(share: float) -> str:
    """The budget on a bar that stands for 16 bits."""
    part = f"width:{100 * min(1.0, share):.1f}%;background:{BLUE};height:10px"
    return f'<div style="background:{GRID};max-width:420px"><div style="{part}"></div></div>'


def picture(found: Mapping[str, Point], share: float = 0.25) -> Drawing:
    """For places where nothing runs: the chart with a budget."""
    return budget_figure(found.values(), share)


class BudgetBox(Exhibit):
    """`.model`, `.tokens`, `.budget`, `.task` are controls; `.view.html.value` shows what fits."""

    def __init__(self, found: Mapping[str, Point]) -> None:
        self.model = Dropdown(options=list(MODELS), value=MODELS[0], description="model")
        self.tokens = SelectionSlider(
            options=[(f"{n:,}", n) for n in TOKENS], value=8192, description="tokens"
        )
        self.budget = FloatLogSlider(value=10**1.67, min=0, max=5, step=0.01, readout_format=",.1f",
                                     description="MB")  # fmt: skip
        self.task = ToggleButtons(options=list(TASKS), description="task")
        controls = (self.model, self.tokens, self.budget, self.task)
        self.view = live(functools.partial(shown, found), *controls)
        super().__init__([*controls, self.view], title="A budget for a cache", picture=lambda: picture(found))
