"""Texts of different lengths, padded on the left, as one batch."""

from __future__ import annotations

import torch

from kvlab.doctor.explain import explain
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps, pad_left, singles
from kvlab.doctor.subject import Unable
from kvlab.doctor.theories import MASKS, PADDED_MASKS, PADDED_POSITIONS, POSITIONS

LENGTHS, NEW = (7, 4), 4


def probe(patient: Patient) -> list[Finding]:
    if not patient.subject.batched:
        raise Unable("it takes one row")
    rows = [patient.text(length + NEW, seed=18 + i)[0] for i, length in enumerate(LENGTHS)]
    filler = int(patient.text(1, seed=30))
    tokens, real = pad_left(rows, filler)
    schedule = Schedule(tokens, singles(max(LENGTHS), max(LENGTHS) + NEW), real)
    try:
        seen = patient.see(schedule)
    except NotImplementedError:
        raise
    except Exception as error:  # a refusal is an honest answer
        raise Unable(f"it refuses padding: {type(error).__name__}: {error}") from error
    if not bool(seen.run.logits[real].isfinite().all()) and patient.exact:
        # Some libraries mask with float64's lowest number and then take softmax in float32.
        patient = patient.in_own_dtype()
        seen = patient.see(schedule)
    if not patient.wrong(seen):
        return []
    theories = [*PADDED_MASKS, *PADDED_POSITIONS, *POSITIONS, *MASKS]
    found = explain(patient, theories, [seen])
    names, says = (found.names, found.says) if found else _signature(patient, schedule, seen)
    return [
        Finding(
            " | ".join(names) or "unknown",
            f"padded rows are up to {patient.size(seen.worst)} from their texts alone: {says}",
            fix_of(names),
            "bug" if names else "unknown",
            seen.first_wrong(patient.tolerance),
            distance=seen.worst,
        )
    ]


def _signature(patient: Patient, schedule: Schedule, seen: Seen) -> tuple[tuple[str, ...], str]:
    """Without a model to recompute with: is padding read? If not, only positions are left to be wrong."""
    assert schedule.real is not None
    shift = torch.where(schedule.real, 0, 1)
    other = Schedule((schedule.tokens + shift) % patient.vocab, schedule.sizes, schedule.real)
    moved = gaps(patient.run(other).logits, seen.run.logits, schedule.real)
    if float(moved.max()) > patient.tolerance:
        return ("padding-without-mask",), "they move when only padding is changed, so padding is read"
    padded = ~schedule.real[:, 0]
    if float(seen.gaps[~padded].max()) > patient.tolerance:
        return (), "padding is not read, yet a row without any is wrong too"
    prefill = seen.gaps[:, : schedule.sizes[0]]
    if float(prefill.max()) > patient.tolerance:
        return ("padding-without-positions",), (
            "padding is not read, yet padded rows are wrong from the first call on: their positions count it"
        )
    return ("positions-from-stored-length",), (
        "padding is not read, and padded rows are wrong after the first call only: positions go on from "
        "the number of entries"
    )
