"""Two equal runs that differ: something is random, so something is in train mode."""

from __future__ import annotations

from torch import Tensor

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.probes.texts import leftovers
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps, singles

REPEATS = 12
LENGTH = 16


def probe(patient: Patient) -> list[Finding]:
    """Three equal runs. Where they differ: the text before, still there, or chance; and of which kind."""
    tokens = patient.text(6, seed=5)
    schedule = Schedule(tokens, singles(4, 6))
    runs = [patient.run(schedule) for _ in range(3)]
    first, *others = (one.logits.nan_to_num() for one in runs)  # what is no number twice is the same twice
    distance = max(float(gaps(first, one).max()) for one in others)
    if distance <= 1e-2 * patient.tolerance:
        return []
    if _same(patient, *(patient.expect(schedule) for _ in range(2))):  # else chance explains anything
        stale = leftovers(patient, runs[-1])
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
    """Dropout draws anew for every number; stochastic depth leaves out whole layers, for all tokens alike.

    In a long text dropout draws so many numbers that two calls never agree. A text of one token would not
    do: dropout on its only attention weight has but two outcomes a head.
    """
    tokens = patient.text(patient.room(LENGTH), seed=6)
    if patient.subject.batched:
        pairs = _pairs(patient, tokens)
        if pairs and all(_same(patient, pair[0], pair[1]) for pair in pairs):
            return "layer-dropout", (
                "equal rows of one call agree, equal calls do not, so whole layers come and go"
            )
    different: list[Tensor] = []
    for _ in range(REPEATS):
        one = _logits(patient, tokens)[0]
        if not any(_same(patient, one, other) for other in different):
            different.append(one)
    if 1 < len(different) < REPEATS:
        return "layer-dropout", f"{REPEATS} equal calls gave {len(different)} results, some again and again"
    return "dropout-on", "equal calls never agree, and neither do equal rows of one call"


def _pairs(patient: Patient, tokens: Tensor) -> list[Tensor]:
    """Logits of two equal rows, four times; none where the subject refuses a batch."""
    try:
        return [_logits(patient, tokens.expand(2, -1)) for _ in range(4)]
    except Exception:  # whatever it is: one row alone tells enough
        return []


def _logits(patient: Patient, tokens: Tensor) -> Tensor:
    return patient.run(Schedule(tokens, (tokens.shape[1],))).logits


def _same(patient: Patient, a: Tensor, b: Tensor) -> bool:
    return float((a.nan_to_num() - b.nan_to_num()).abs().max()) <= 1e-2 * patient.tolerance
