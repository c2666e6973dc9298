"""Buckets: how capacities are chosen decides how often a service compiles and how much room it wastes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ipywidgets import Dropdown, IntSlider

from .style import BLUE, GREEN, Drawing, drawing, styled
from .tables import card, inline, plain_table
from .widgets import Exhibit, live

RULES = ("exactly what is needed", "multiples of the step", "the step, doubled as needed", "one size for all")


def requests(count: int = 200, seed: int = 0) -> list[int]:
    """Slots that `count` made-up texts need: many short ones, few long ones, up to 2,048."""
    draw = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return [int(16 * 128 ** float(x)) for x in draw]


def capacity(rule: str, needed: int, step: int, most: int) -> int:
    """The capacity that a rule gives a text which needs `needed` slots; `most`: the longest of all."""
    if rule == RULES[0]:
        return needed
    if rule == RULES[1]:
        return -(-needed // step) * step
    if rule == RULES[2]:
        room = step
        while room < needed:
            room *= 2
        return room
    return most


@dataclass(frozen=True)
class Outcome:
    """What a rule costs over all requests."""

    shapes: int  # different capacities: each is compiled once
    waste: float  # share of the allocated slots that stay empty


def outcome(rule: str, needed: Sequence[int], step: int) -> Outcome:
    """Apply a rule to every request."""
    rooms = [capacity(rule, n, step, max(needed)) for n in needed]
    return Outcome(len(set(rooms)), 1 - sum(needed) / sum(rooms))


def shown(needed: Sequence[int], seconds: float, rule: str, step: int) -> str:
    """The chosen rule in words, and all rules as a table, as HTML."""
    mine = outcome(rule, needed, step)
    rows = []
    for name in RULES:
        found = outcome(name, needed, step)
        mark = f"**{name}**" if name == rule else name
        rows.append((mark, f"{found.shapes}", f"{found.shapes * seconds:,.0f} s", f"{found.waste:.0%}"))
    columns = ("capacity", "shapes", "compiling them", "slots empty")
    stepped = f" ({step})" if rule in RULES[1:3] else ""  # the other two have no step
    head = f"{len(needed)} texts, {rule}{stepped}: **{mine.shapes}** shape{'s' * (mine.shapes != 1)}, "
    head += f"**{mine.waste:.0%}** of the slots empty."
    caption = f"One compilation is taken as {seconds:.0f} s, as recorded."
    return card(inline(head)) + plain_table(rows, columns, caption=caption)


@styled
def buckets_figure(needed: Sequence[int], step: int) -> Drawing:
    """Shapes and empty slots of each rule, for places where no widget runs."""
    found = {rule: outcome(rule, needed, step) for rule in RULES}
    words = "; ".join(f"{rule}: shapes {o.shapes}, empty {o.waste:.0%}" for rule, o in found.items())
    figure, axes = drawing(8.2, 2.4, alt=words, columns=2, sharey=True)
    panels: tuple[tuple[list[float], str, str, str], ...] = (
        ([o.shapes for o in found.values()], "shapes to compile", BLUE, "{:.0f}"),
        ([100 * o.waste for o in found.values()], "slots empty (%)", GREEN, "{:.0f} %"),
    )
    for ax, (values, label, colour, text) in zip(axes, panels, strict=True):
        ax.barh(range(len(RULES)), values, 0.62, color=colour)
        for y, value in enumerate(values):
            ax.annotate(text.format(value), (value, y), (5, 0), textcoords="offset points", va="center")
        ax.set_xlabel(label)
        ax.margins(x=0.2)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(RULES)), RULES)
    axes[0].invert_yaxis()
    return figure


class Buckets(Exhibit):
    """`.rule` and `.step` are the controls; `.view.html.value` shows what they cost."""

    def __init__(self, needed: Sequence[int], seconds: float, step: int) -> None:
        self.rule = Dropdown(options=RULES, value=RULES[2], description="capacity")
        self.step = IntSlider(step, min=16, max=512, step=16, description="step")
        self.view = live(functools.partial(shown, needed, seconds), self.rule, self.step)
        super().__init__(
            [self.rule, self.step, self.view],
            title="Buckets: shapes to compile against empty slots",
            picture=functools.partial(buckets_figure, needed, step),
        )


def buckets(needed: Sequence[int], seconds: float, step: int = 64) -> Buckets:
    """The widget over the slots that texts need; `seconds`: of one compilation."""
    return Buckets(needed, seconds, step)
