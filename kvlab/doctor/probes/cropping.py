"""Roll back and go on another way: early in a text, and late, where a ring has overwritten its past."""

from __future__ import annotations

import torch

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps, singles
from kvlab.doctor.subject import Unable

SHORT, LONG, BACK, NEW = 6, 72, 3, 2


def crop_probe(patient: Patient) -> list[Finding]:
    if patient.loses:
        raise Unable("the cache is lossy: what it lost before a crop stays lost")
    early = _after_crop(patient, SHORT)
    late = _after_crop(patient, patient.room(LONG))
    if early is None:
        raise Unable("crop refused")
    if max(early, late or 0.0) <= patient.tolerance:
        return []
    wraps = early <= patient.tolerance
    name = "crop-on-ring" if wraps else "crop"
    says = (
        f"cropping {BACK} of {SHORT} tokens is right, of {LONG} tokens wrong: by then the store has "
        "overwritten what the crop would need"
        if wraps
        else f"cropping {BACK} of {SHORT} tokens is wrong already"
    )
    worst = max(early, late or 0.0)
    return [
        Finding(
            name if wraps else "unknown",
            f"after crop, logits are up to {patient.size(worst)} from full recompute: {says}",
            fix_of((name,)),
            "bug" if wraps else "unknown",
            distance=worst,
        )
    ]


def _after_crop(patient: Patient, length: int) -> float | None:
    """Max |Δlogit| of two tokens after a crop by three; None: the subject refused to crop."""
    tokens = patient.text(length, seed=33)
    new = patient.text(NEW, seed=34)
    done = patient.run(Schedule(tokens, singles(4, length)))
    kept = done.schedule.total - BACK
    try:
        state = patient.subject.crop(done.state, kept)
    except NotImplementedError:
        raise
    except Exception:  # a refusal is an honest answer
        return None
    logits = patient.run(Schedule(new, (1,) * NEW), state).logits
    expected = patient.truth_from.full(torch.cat((tokens[:, :kept], new), dim=1))[:, kept:]
    return float(gaps(logits, expected).max())
