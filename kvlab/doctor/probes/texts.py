"""A new text must find nothing of the one before: from the state None, and from a state that was reset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.explain import Explained, explain
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Run, Schedule, run, singles
from kvlab.doctor.sheet import Lines, Sheet, causal, right
from kvlab.doctor.theories import Theory, after

FIRST, SECOND = 8, 5


def fresh(patient: Patient) -> list[Finding]:
    """A long text, then a short one, both from None."""
    old = patient.text(FIRST, seed=11)
    run(patient.subject, Schedule(old, singles(5, FIRST)))
    seen = patient.see(Schedule(patient.text(SECOND, seed=12), singles(3, SECOND)))
    if not patient.wrong(seen):
        return []
    found = _explained(patient, seen, old, "another-prompts-cache")
    return [] if found is None else [_finding(patient, seen, found, "a text that starts from no state")]


def reset(patient: Patient) -> list[Finding]:
    """The same, but the second text starts from the first one's state after reset()."""
    old = patient.text(FIRST, seed=13)
    state = patient.subject.reset(run(patient.subject, Schedule(old, singles(5, FIRST))).state)
    schedule = Schedule(patient.text(SECOND, seed=14), singles(3, SECOND))
    done = run(patient.subject, schedule, state)
    seen = patient.compare(done)
    if not patient.wrong(seen):
        return []
    found = _explained(patient, seen, old, "static-not-reset")
    says = found.says if found else "what is left of the text before could not be worked out"
    return [_finding(patient, seen, Explained(("static-not-reset",), says, 0.0), "a text after reset()")]


def leftovers(patient: Patient, second: Run, tokens: Tensor) -> Finding | None:
    """The finding where a run is explained by the same `tokens`, still there from the run before."""
    seen = patient.compare(second)
    if not patient.wrong(seen):
        return None
    everything = _fed_before(patient, tokens)
    for old in everything:
        found = explain(patient, [Theory("another-prompts-cache", _SAYS, after(old))], [seen])
        if found is not None:
            return _finding(patient, seen, found, "a text that starts from no state")
    return None


_SAYS = "it goes on behind the text before, which is still in the cache"


def _fed_before(patient: Patient, tokens: Tensor) -> list[Tensor]:
    """What an uncleared cache may hold by then: the last text, and all that the doctor has passed so far."""
    sample = patient.text(7, seed=7)
    return [tokens, torch.cat((sample, tokens), dim=1), torch.cat((sample, sample, tokens), dim=1)]


def _explained(patient: Patient, seen: Seen, old: Tensor, name: str) -> Explained | None:
    theories = [
        Theory(name, _SAYS, after(old)),
        Theory(name, _SAYS + ", at positions from 0", after(old, restart=True)),
        Theory(
            "static-not-reset",
            "slots that it has not overwritten yet still show the text before",
            _stale(old),
        ),
    ]
    return explain(patient, theories, [seen])


def _stale(old: Tensor) -> Any:
    """Slots are written from 0 again, and those behind still hold, and show, the old text."""
    held = old.shape[1]

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        new, batch = t.shape[1], len(t)
        if not s.calls:  # the old entries were computed among themselves; they come along in the first call
            fed = torch.cat((old, t), dim=1)
            everything = torch.ones_like(fed, dtype=torch.bool)
            mask = causal(s, everything)
            mask[:, held:, : min(new, held)] = False
            at = torch.cat([torch.arange(n).expand(batch, n) for n in (held, new)], dim=1)
            return Lines(fed, at, mask)
        lines = right(s, t, r)
        written = s.total - held + new
        lines.visible[:, :, : min(written, held)] = False
        lines.positions = lines.positions - held
        return lines

    return lay


def _finding(patient: Patient, seen: Seen, found: Explained, what: str) -> Finding:
    return Finding(
        " | ".join(found.names),
        f"{what} is up to {patient.size(seen.worst)} from full recompute: {found.says}",
        fix_of(found.names),
        token=seen.first_wrong(patient.tolerance),
        distance=seen.worst,
    )
