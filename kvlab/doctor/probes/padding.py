"""Texts of different lengths, padded on the left, as one batch."""

from __future__ import annotations

from kvlab.doctor.explain import explain
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, pad_left, singles
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
    names = found.names if found else ()
    says = found.says if found else "no way to get mask or positions wrong gives these logits"
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
