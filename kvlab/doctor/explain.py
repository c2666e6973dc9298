"""Which theory explains wrong logits: the one whose recompute gives the very same wrong numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.schedule import gaps
from kvlab.doctor.sheet import simulate
from kvlab.doctor.subject import Unable
from kvlab.doctor.theories import Theory

CLOSE = 0.01  # of the error itself: a theory that leaves more than this unexplained is dropped


@dataclass(frozen=True)
class Explained:
    """The names whose theories fit, and what the best of them says happens."""

    names: tuple[str, ...]
    says: str
    left: float | None = None  # max |Δlogit| between the theory and what was observed


def misses(patient: Patient, theory: Theory, seen: Seen) -> float | None:
    """Max |Δlogit| between what a theory predicts and what a run gave; None: it cannot be computed."""
    schedule, found = seen.run.schedule, []
    for reference in patient.truth_from.ways():
        try:
            predicted = simulate(reference, theory.lay, schedule)
        except Unable:
            return None
        found.append(float(gaps(seen.run.logits.to(predicted.dtype), predicted, schedule.real).max()))
    return min(found)


def fits(patient: Patient, miss: float | None, seen: Seen) -> bool:
    """Whether a theory explains a run: as close as rounding, beside an error that is much larger."""
    if miss is None:
        return False
    noise = max(patient.tolerance * 0.3, CLOSE * seen.worst if not patient.exact else 0.0)
    return miss < noise


def explain(patient: Patient, theories: Iterable[Theory], runs: Sequence[Seen]) -> Explained | None:
    """The names that explain every run; for each run any theory of that name will do. None: there is none."""
    alive: dict[str, list[Theory]] = {}
    for theory in theories:
        alive.setdefault(theory.name, []).append(theory)
    says: dict[str, tuple[float, str]] = {}
    for seen in runs:
        left = {}
        for name, variants in alive.items():
            tried = [(misses(patient, theory, seen), theory) for theory in variants]
            good = [
                (miss, theory) for miss, theory in tried if miss is not None and fits(patient, miss, seen)
            ]
            if good:
                left[name] = variants
                miss, best = min(good, key=lambda pair: pair[0])
                if name not in says or patient.wrong(seen):
                    says.setdefault(name, (miss, best.says))
        alive = left
        if not alive:
            return None
    names = tuple(alive)
    return Explained(names, says[names[0]][1], says[names[0]][0])
