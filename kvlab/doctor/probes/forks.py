"""One prefix, two endings, written in turns: neither may read what the other wrote."""

from __future__ import annotations

import torch

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps, singles

PREFIX, NEW = 5, 3


def probe(patient: Patient) -> list[Finding]:
    prefix = patient.text(PREFIX, seed=31)
    endings = [patient.text(NEW, seed=32 + i) for i in range(2)]
    state = patient.run(Schedule(prefix, (PREFIX,))).state
    states = [state, patient.subject.fork(state)]
    worst, first = 0.0, None
    texts = [prefix, prefix]
    for i in range(NEW):
        for branch in range(2):
            token = endings[branch][:, i : i + 1]
            logits, states[branch] = patient.subject.step(token, states[branch])
            texts[branch] = torch.cat((texts[branch], token), dim=1)
            expected = patient.expect(Schedule(texts[branch], singles(PREFIX, PREFIX + i + 1)))[:, -1:]
            gap = float(gaps(logits.detach(), expected).max())
            if gap > patient.tolerance and first is None:
                first = (branch, PREFIX + i)
            worst = max(worst, gap)
    if first is None:
        return []
    names = ("shared-prefix-in-place",)
    who = "the fork" if first[0] else "the original"
    return [
        Finding(
            names[0],
            f"two branches of one prefix, written in turns: {who} goes wrong by up to {patient.size(worst)}, "
            "though each alone is right: they write into the same storage",
            fix_of(names),
            token=first[1],
            distance=worst,
        )
    ]
