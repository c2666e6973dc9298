"""A new text must find nothing of the one before: from the state None, and from a state that was reset."""

from __future__ import annotations

from kvlab.doctor.explain import Explained
from kvlab.doctor.history import explained_by_past
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Run, Schedule, singles

FIRST, SECOND = 8, 5


def fresh(patient: Patient) -> list[Finding]:
    """A long text, a short one, and one as long as the first: each from None."""
    patient.run(Schedule(patient.text(FIRST, seed=11), singles(5, FIRST)))
    for seed, length, prefill in ((12, SECOND, 3), (13, FIRST, 5)):
        found = leftovers(
            patient, patient.run(Schedule(patient.text(length, seed=seed), singles(prefill, length)))
        )
        if found is not None:
            return [found]
    return []


def leftovers(patient: Patient, latest: Run) -> Finding | None:
    """The finding where the latest run is explained by a text that was passed before it."""
    seen = patient.compare(latest)
    if not patient.wrong(seen):
        return None
    found = explained_by_past(patient, seen, patient.fed[:-1])
    return None if found is None else _finding(patient, seen, found, "a text that starts from no state")


def reset(patient: Patient) -> list[Finding]:
    """The second text starts from the first one's state after reset()."""
    old = patient.text(FIRST, seed=14)
    state = patient.subject.reset(patient.run(Schedule(old, singles(5, FIRST))).state)
    done = patient.run(Schedule(patient.text(SECOND, seed=15), singles(3, SECOND)), state)
    seen = patient.compare(done)
    if not patient.wrong(seen):
        return []
    found = explained_by_past(patient, seen, [old])
    says = found.says if found else "what is left of the text before could not be worked out"
    return [_finding(patient, seen, Explained(("static-not-reset",), says, 0.0), "a text after reset()")]


def _finding(patient: Patient, seen: Seen, found: Explained, what: str) -> Finding:
    return Finding(
        " | ".join(found.names),
        f"{what} is up to {patient.size(seen.worst)} from full recompute: {found.says}",
        fix_of(found.names),
        token=seen.first_wrong(patient.tolerance),
        distance=seen.worst,
    )
