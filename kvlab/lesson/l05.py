"""Lesson 05: one text cut into calls, theories of wrong logits, and who is named as what.

The widget is in `l05_cuts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kvlab.doctor import Confusion, confusion
from kvlab.doctor.check import as_subject, check
from kvlab.doctor.explain import misses
from kvlab.doctor.gallery import GALLERY
from kvlab.doctor.loose import Loose
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.schedule import Schedule, singles
from kvlab.doctor.theories import MASKS, POSITIONS, TOKENS, Theory
from kvlab.zoo import load

from .style import COLOURS, Drawing, direct_labels, drawing, styled

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

LENGTH = 12
CUTS: dict[str, tuple[int, ...]] = {
    "one call": (LENGTH,),
    "prompt, then one by one": singles(6, LENGTH),
    "one by one": (1,) * LENGTH,
    "in chunks": (5, 4, 3),
}
RIGHT = "no mistake"
SAME = 1e-6  # far above rounding in float64, far below any misuse
FLOOR = 1e-16  # what a difference of exactly 0 is drawn as


def patient(lm: Decoder, name: str) -> Patient:
    """The step with the gallery's misuse `name`, ready to be examined; RIGHT: one without a mistake."""
    misuse = GALLERY["offset-by-one" if name == RIGHT else name]
    return Patient(misuse.right(lm) if name == RIGHT else misuse.wrong(lm))


def passed(of: Patient, sizes: Sequence[int], seed: int = 3) -> Seen:
    """A random text passed in calls of `sizes`, beside full recompute; `.gaps [1, tokens]`."""
    return of.see(Schedule(of.text(sum(sizes), seed), tuple(sizes)))


def worst_by_cut(lm: Decoder, names: Sequence[str]) -> Tensor:
    """Largest |Δlogit| of each step under each of CUTS, `[names, cuts]`."""
    return torch.tensor([[passed(patient(lm, name), cut).worst for cut in CUTS.values()] for name in names])


def theories() -> dict[str, list[Theory]]:
    """The doctor's theories of positions, masks and tokens, by the misuse they stand for."""
    known: dict[str, list[Theory]] = {}
    for theory in (*POSITIONS, *MASKS, *TOKENS):
        known.setdefault(theory.name, []).append(theory)
    return known


def unexplained(lm: Decoder, names: Sequence[str]) -> Tensor:
    """What the best theory of each misuse leaves of a step's wrong logits, max over CUTS, `[names, names]`.

    Rows: the step; columns: the theory. Next to nothing: the theory gives the very same wrong numbers.
    """
    known = theories()
    rows = []
    for name in names:
        step = patient(lm, name)
        seen = [passed(step, cut) for cut in CUTS.values()]
        rows.append([_best(step, known[told], seen) for told in names])
    return torch.tensor(rows)


def _best(step: Patient, variants: Sequence[Theory], seen: Sequence[Seen]) -> float:
    left = [max(misses(step, theory, one) or 0.0 for one in seen) for theory in variants]
    return min(left)


def everyone(lm: Decoder) -> Confusion:
    """The doctor on the whole gallery, steps and loops."""
    plants: dict[str, Any] = {}
    for name, misuse in GALLERY.items():
        wrong = misuse.wrong(lm)
        plants[name] = wrong if misuse.who == "step" else _report(wrong, lm)
    return confusion(plants)


def _report(loop: Callable[..., Tensor], lm: Decoder) -> Callable[[], Any]:
    return lambda: check(loop, model=lm)


def stepper(lm: Decoder, off: int = 0) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """A step as one writes it, `(tokens, state) -> (logits, state)`; later positions are off by `off`."""

    def step(tokens: Tensor, state: Loose | None = None) -> tuple[Tensor, Loose]:
        cache = Loose(lm) if state is None else state.fork()
        past = cache.length
        first = past + off if past else 0
        return cache(tokens, torch.arange(first, first + tokens.shape[1], device=tokens.device)), cache

    return step


LONGER = (5, 7) * 4  # bfloat16 rounds a short text alike in both ways, by chance
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def by_precision(name: str = "tiny") -> dict[str, list[float]]:
    """Largest |Δlogit| in each of DTYPES, for a right step and for one that is off by one."""
    gaps: dict[str, list[float]] = {RIGHT: [], "offset by one": []}
    for dtype in DTYPES.values():
        lm = load(name, device="cpu", dtype=dtype)
        for found, off in zip(gaps.values(), (0, 1), strict=True):
            found.append(passed(Patient(as_subject(stepper(lm, off)), exact=False), LONGER).worst)
    return gaps


# --- figures ---------------------------------------------------------------------------------------------


@styled
def distances(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> Drawing:
    """A table of largest |Δlogit|, `[rows, columns]`: grey where wrong, "same" where it is rounding."""
    data = values.double().numpy()
    figure, (ax,) = drawing(7.4, 1.8 + 0.3 * len(rows), alt=f"{title}: {', '.join(rows)}")
    ax.imshow(data > SAME, cmap="Greys", vmin=0, vmax=2.5, aspect="auto")
    ax.grid(False)
    ax.set_xticks(range(len(columns)), columns, rotation=25, ha="right", rotation_mode="anchor", fontsize=8.5)
    ax.set_yticks(range(len(rows)), rows, fontsize=8.5)
    ax.tick_params(length=0)
    for i, j in np.ndindex(*data.shape):
        words = f"{data[i, j]:.1f}" if data[i, j] > SAME else "same"
        ax.text(j, i, words, ha="center", va="center", fontsize=8.5)
    ax.set_title(title)
    return figure


@styled
def confusion_figure(found: Confusion) -> Drawing:
    """Planted misuses in rows, what was reported in columns; a class of several shares one unit of ink."""
    rows, columns = list(found.cells), found.columns
    data = np.array([[found.cells[row].get(column, 0.0) for column in columns] for row in rows])
    words = f"confusion matrix of {len(rows)} planted misuses; missed: {', '.join(found.missed) or 'none'}"
    figure, (ax,) = drawing(7.6, 7.0, alt=words)
    ax.imshow(data, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.tick_params(length=0)
    ax.set_xlabel("reported")
    ax.set_ylabel("planted")
    return figure


@styled
def precision_figure(gaps: dict[str, Sequence[float]], dtypes: Sequence[str]) -> Drawing:
    """Largest |Δlogit| against precision, one line for each step."""
    words = f"distance from full recompute in {', '.join(dtypes)}: {', '.join(gaps)}"
    figure, (ax,) = drawing(6.4, 3.3, alt=words)
    ends = []
    for (name, values), colour in zip(gaps.items(), COLOURS, strict=False):
        drawn = [max(v, FLOOR) for v in values]
        ax.plot(range(len(dtypes)), drawn, "o-", color=colour)
        ends.append((drawn[-1], name, colour))
    ax.set_yscale("log")
    ax.set_xticks(range(len(dtypes)), dtypes)
    ax.set_ylabel("largest |Δlogit|")
    direct_labels(ax, ends)
    return figure
