"""Beam search moves rows: after reorder, row i must continue what row rows[i] was."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.probes.rows import intruders, mixture
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps
from kvlab.doctor.subject import Unable

PREFIX, ORDER = 5, [2, 0, 1]  # not its own inverse: the wrong direction shows


def probe(patient: Patient) -> list[Finding]:
    if not patient.subject.batched:
        raise Unable("it takes one row")
    prefix = patient.text(PREFIX, seed=35, batch=3)
    new = patient.text(1, seed=36, batch=3)

    def last(past: Tensor) -> Tensor:
        state = patient.run(Schedule(past, (PREFIX,))).state
        return patient.run(Schedule(new, (1,)), patient.subject.reorder(state, ORDER)).logits[:, -1]

    logits = last(prefix)
    texts = torch.cat((prefix[ORDER], new), dim=1)
    expected = patient.expect(Schedule(texts, (PREFIX, 1)))[:, -1:]
    worst = float(gaps(logits[:, None], expected).max())
    if worst <= patient.tolerance:
        return []
    swapped = mixture(patient, logits, texts, PREFIX) or intruders(patient, last, prefix, ORDER)
    return [
        Finding(
            "rows-permuted" if swapped else "unknown",
            f"after reorder({ORDER}), rows are up to {patient.size(worst)} from what they should continue"
            + (f": {swapped}" if swapped else ""),
            fix_of(("rows-permuted",) if swapped else ()),
            "bug" if swapped else "unknown",
            PREFIX,
            distance=worst,
        )
    ]
