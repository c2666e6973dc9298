"""Two equal runs that differ: something is random, so something is in train mode."""

from __future__ import annotations

import torch

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.probes.texts import leftovers
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps, run, singles

REPEATS = 12


def probe(patient: Patient) -> list[Finding]:
    """Three equal runs. Where they differ: the text before, still there, or chance; and of which kind."""
    tokens = patient.text(6, seed=5)
    schedule = Schedule(tokens, singles(4, 6))
    runs = [run(patient.subject, schedule) for _ in range(3)]
    distance = max(float(gaps(runs[0].logits, one.logits).max()) for one in runs[1:])
    if distance <= 1e-2 * patient.tolerance:
        return []
    stale = leftovers(patient, runs[1], tokens)
    if stale is not None:
        return [stale]
    name, says = _kind(patient)
    return [
        Finding(
            name,
            f"equal runs differ by up to {patient.size(distance)}: {says}",
            fix_of((name,)),
            distance=distance,
        )
    ]


def _kind(patient: Patient) -> tuple[str, str]:
    """Dropout draws anew for every number; stochastic depth leaves out whole layers, so results come again."""
    token = patient.text(1, seed=6)
    if patient.subject.batched:
        both = run(patient.subject, Schedule(token.expand(2, 1), (1,))).logits
        twins = [run(patient.subject, Schedule(token.expand(2, 1), (1,))).logits for _ in range(REPEATS)]
        alike = all(torch.equal(x[0], x[1]) or _near(patient, x[0], x[1]) for x in (both, *twins))
        if alike:
            return (
                "layer-dropout",
                "equal rows of one call agree, equal calls do not, so whole layers come and go",
            )
    results = [run(patient.subject, Schedule(token, (1,))).logits for _ in range(REPEATS)]
    different: list[torch.Tensor] = []
    for one in results:
        if not any(_near(patient, one, other) for other in different):
            different.append(one)
    if len(different) < REPEATS - 1:
        return "layer-dropout", f"{REPEATS} equal calls gave {len(different)} results, some again and again"
    return "dropout-on", f"{REPEATS} equal calls gave {REPEATS} results"


def _near(patient: Patient, a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-2 * patient.tolerance
