"""Many single steps: a store that is full, or forgets, shows at the first token that is wrong."""

from __future__ import annotations

from kvlab.doctor.explain import explain
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.probes.base import lost, numbered, proof
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, singles
from kvlab.doctor.subject import Unable
from kvlab.doctor.where import first_layer

PREFILL, TOTAL, MORE = 4, 72, 5


def probe(patient: Patient) -> list[Finding]:
    if patient.loses:
        raise Unable("the cache is lossy, as found above")
    total = patient.room(TOTAL)
    schedule = Schedule(patient.text(total, seed=16), singles(PREFILL, total))
    seen = patient.see(schedule)
    token = seen.first_wrong(patient.tolerance)
    if token is None:
        return []
    if patient.native.lossy is not None:
        patient.loses = True
        return [lost(patient, seen)]
    patient.forgets = True
    near = patient.see(schedule.cut(min(token + MORE, seen.run.schedule.total)))  # computing less is enough
    found = explain(patient, numbered(patient, near), [near])
    if found is not None and found.names == ("eviction",):
        patient.loses = True
        return [lost(patient, seen, found.says)]
    names = found.names if found else ()
    says = (
        found.says + proof(found)
        if found
        else f"right up to token {token - 1}, wrong from there on, as where a store is full"
    )
    return [
        Finding(
            " | ".join(names) or "unknown",
            f"single steps are up to {patient.size(seen.worst)} from full recompute: {says}",
            fix_of(names),
            "bug" if names else "unknown",
            token,
            first_layer(patient, schedule, token),
            distance=seen.worst,
        )
    ]
