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
    if not _finite(seen):
        patient, seen = _in_numbers(patient, schedule)
    if not patient.wrong(seen):
        return []
    theories = [*PADDED_MASKS, *PADDED_POSITIONS, *POSITIONS, *MASKS]
    found = explain(patient, theories, [seen])
    if found:
        names, says = found.names, found.says
    elif not _finite(seen):
        names, says = (), "most likely a query there may see nothing at all"
    else:
        names, says = _signature(patient, schedule, seen)
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


def _finite(seen: Seen) -> bool:
    return bool(seen.run.logits[seen.run.schedule.real].isfinite().all())


def _in_numbers(patient: Patient, schedule: Schedule) -> tuple[Patient, Seen]:
    """The same in a precision where the logits of real tokens are numbers; as it was where there is none.

    Some libraries mask with float64's lowest number and then take softmax in float32: NaN, which says
    nothing of a misuse.

    Raises:
        Unable: in its own precision the subject gives none; in float32 it gives the right ones.
    """
    for twin in filter(None, (patient.in_own_dtype(), patient.in_float32())):
        seen = twin.see(schedule)
        if not _finite(seen):
            continue
        if twin.native is not patient.native and not twin.wrong(seen):
            raise Unable("padded rows are not numbers in this precision, and right in float32")
        return twin, seen
    return patient, patient.see(schedule)


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
