"""Roll back and go on another way: early in a text, and late, where a ring has overwritten its past."""

from __future__ import annotations

import torch

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Run, Schedule, gaps, singles
from kvlab.doctor.subject import Unable

SHORT, LONG, NEW = 4, 72, 2


def crop_probe(patient: Patient) -> list[Finding]:
    """One token back in a short text; then a few, and nearly all, in a long one."""
    if patient.loses:
        raise Unable("the cache is lossy: what it lost before a crop stays lost")
    if patient.forgets:
        raise Unable("a long text is wrong already, as found above")
    long = patient.room(LONG)
    cuts = [(SHORT, SHORT - 1), (long, long - 3), (long, SHORT)]
    gaps_of = {cut: _after_crop(patient, *cut) for cut in cuts}
    if all(gap is None for gap in gaps_of.values()):
        raise Unable("crop refused")
    wrong = {cut: gap for cut, gap in gaps_of.items() if gap is not None and gap > patient.tolerance}
    if not wrong:
        return []
    (length, kept), worst = next(iter(wrong.items()))
    early = (SHORT, SHORT - 1) in wrong
    says = f"after a crop from {length} to {kept} tokens, " + (
        "the next step fails" if worst == float("inf") else f"logits are up to {patient.size(worst)} off"
    )
    if early:
        return [Finding("unknown", says, fix_of(()), "unknown", kept, distance=worst)]
    says += (
        f", though from {SHORT} to {SHORT - 1} all is right: the store had overwritten what the crop needs"
    )
    return [Finding("crop-on-ring", says, fix_of(("crop-on-ring",)), token=kept, distance=worst)]


def _after_crop(patient: Patient, length: int, kept: int) -> float | None:
    """Max |Δlogit| of two tokens after a crop to `kept`; None: refused; inf: it could not go on."""
    tokens, new = patient.text(length, seed=33), patient.text(NEW, seed=34)
    done = patient.run(Schedule(tokens, singles(3, length)))
    if done.error is not None:  # it refuses to grow so long
        return None
    try:
        state = patient.subject.crop(done.state, kept)
    except NotImplementedError:
        raise
    except Exception:  # a refusal is an honest answer
        return None
    after = _go_on(patient, new, state)
    if after is None:
        return float("inf")
    expected = patient.truth_from.full(torch.cat((tokens[:, :kept], new), dim=1))[:, kept:]
    return float(gaps(after.logits, expected).max())


def _go_on(patient: Patient, new: torch.Tensor, state: object) -> Run | None:
    try:
        done = patient.run(Schedule(new, (1,) * NEW), state)
    except Exception:  # it took the crop, and cannot go on from it
        return None
    return None if done.error is not None else done
