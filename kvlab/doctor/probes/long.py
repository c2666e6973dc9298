"""Many single steps: a store that is full, or forgets, shows at the first token that is wrong."""

from __future__ import annotations

from kvlab.doctor.explain import explain
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.probes.base import lost, numbered, proof
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, singles
from kvlab.doctor.signature import when_full
from kvlab.doctor.subject import Unable
from kvlab.doctor.where import first_layer

PREFILL, TOTAL, MORE = 4, 72, 5
FAR, LAST = 512, 4  # in small models, a text goes on so far in one call, and its last tokens come one by one


def probe(patient: Patient) -> list[Finding]:
    if patient.loses:
        raise Unable("the cache is lossy, as found above")
    seen = _see(patient)
    token = seen.first_wrong(patient.tolerance)
    if (
        token is not None and token >= TOTAL
    ):  # where single steps begin to be wrong tells how large a store is
        seen = _one_by_one(patient, token + MORE)
        token = seen.first_wrong(patient.tolerance)
        if token is None:
            return [_in_a_chunk(patient)]
    if token is None:
        return []
    if patient.native.lossy is not None:
        patient.loses = True
        return [lost(patient, seen)]
    patient.forgets = True
    schedule = seen.run.schedule
    near = patient.see(schedule.cut(min(token + MORE, schedule.total)))  # computing less is enough
    found = explain(patient, numbered(patient, near), [near])
    if found is not None and found.names == ("eviction",):
        patient.loses = True
        return [lost(patient, seen, found.says)]
    names, says = (found.names, found.says + proof(found)) if found else when_full(patient, token)
    return [
        Finding(
            " | ".join(names) or "unknown",
            f"single steps are up to {patient.size(seen.worst)} from full recompute: {says}",
            fix_of(names),
            "bug" if names else "unknown",
            token,
            first_layer(patient, seen.run.schedule, token),
            distance=seen.worst,
        )
    ]


def _see(patient: Patient) -> Seen:
    """As far as is cheap; a subject that refuses so long a text is compared up to there."""
    total, far = patient.room(TOTAL), patient.room(FAR)
    if not patient.cheap or far < total + 2 * LAST:
        return _one_by_one(patient, total)
    sizes = (*singles(PREFILL, total), far - total - LAST, *(1,) * LAST)
    try:
        return patient.see(Schedule(patient.text(far, seed=16), sizes))
    except Exception:  # recompute itself takes no such text
        return _one_by_one(patient, total)


def _one_by_one(patient: Patient, total: int) -> Seen:
    total = patient.room(total)
    return patient.see(Schedule(patient.text(total, seed=16), singles(PREFILL, total)))


def _in_a_chunk(patient: Patient) -> Finding:
    far = patient.room(FAR)
    says = (
        f"{TOTAL} tokens one by one are right, and so are more of them, but a call of "
        f"{far - TOTAL - LAST} tokens behind them, or what follows it, is not"
    )
    return Finding("unknown", says, fix_of(()), "unknown", TOTAL)
