"""One short text in four cuts, each beside full recompute; most misuses of positions and masks show here."""

from __future__ import annotations

from kvlab.doctor.explain import Explained, explain
from kvlab.doctor.held import entries
from kvlab.doctor.history import explained_by_past
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.replays import replayed
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, singles
from kvlab.doctor.signature import signature
from kvlab.doctor.theories import MASKS, POSITIONS, TOKENS, Theory, counted, dropped, evicted, full_at
from kvlab.doctor.where import first_layer

LENGTH, MORE = 11, 6
CUTS = {
    "mixed calls": (4, 1, 3, 1, 2),
    "prefill, then single steps": singles(6, LENGTH),
    "single steps from the start": singles(1, LENGTH),
    "one call": (LENGTH,),
}


def probe(patient: Patient) -> list[Finding]:
    seen = {name: patient.see(Schedule(patient.text(LENGTH, seed=3), cut)) for name, cut in CUTS.items()}
    wrong = {name: one for name, one in seen.items() if patient.wrong(one)}
    if not wrong:
        return raised(patient, seen)
    return [diagnose(patient, seen, wrong)]


def diagnose(patient: Patient, seen: dict[str, Seen], wrong: dict[str, Seen]) -> Finding:
    worst = max(wrong.values(), key=lambda one: one.worst)
    name, first = next(iter(wrong.items()))
    token = first.first_wrong(patient.tolerance)
    distance = f"{name}: logits are up to {patient.size(first.worst)} from full recompute"
    found = explain(patient, [*POSITIONS, *MASKS, *TOKENS], list(seen.values()))
    found = found or in_numbers(patient, first, list(wrong.values()))
    found = found or replayed(patient, list(seen.values()))
    found = found or foreign(patient, seen, first)
    if found is not None:
        names, says = found.names, found.says + proof(found)
    elif worst.worst == float("inf"):
        names, says = (
            (),
            "some logits are not numbers (NaN), though full recompute has none: look for a query that its "
            "mask lets see nothing, and for slots that were read and never written",
        )
    else:
        chunks_ran = seen["mixed calls"].run.error is None
        names, says = signature(patient, chunks_ran)
    lossy = names == ("eviction",) or patient.native.lossy is not None and found is None
    if lossy:
        patient.loses = True
        return lost(patient, worst, says if names == ("eviction",) else "")
    return Finding(
        " | ".join(names) or "unknown",
        f"{distance}. {says[0].upper() + says[1:]}.",
        fix_of(names),
        "bug" if names else "unknown",
        token,
        first_layer(patient, first.run.schedule, token),
        distance=worst.worst,
    )


def proof(found: Explained) -> str:
    """How well the recompute of a theory gives what was observed."""
    if found.left is None:
        return ""
    return "; recomputing that gives the same logits" + (f" to {found.left:.0e}" if found.left else "")


def foreign(patient: Patient, seen: dict[str, Seen], first: Seen) -> Explained | None:
    """Entries that are of another text: of one that was passed before, or of one that nobody knows."""
    found = explained_by_past(patient, first, patient.fed[: -len(seen)])
    if found is not None:
        return found
    one = patient.run(Schedule(patient.text(1, seed=4), (1,)))
    extra = (entries(one.state) or 1) - 1
    if extra <= 0 or not patient.wrong(patient.compare(one)):
        return None
    says = f"after a first call with one token the cache holds {extra} entries more, of some other text"
    return Explained(("another-prompts-cache",), says)


def lost(patient: Patient, seen: Seen, says: str = "") -> Finding:
    """A cache that keeps less than everything, as it is meant to."""
    what = patient.native.lossy or says
    return Finding(
        "lossy",
        f"{what}: up to {patient.size(seen.worst)} from full recompute, as a cache that keeps less must be",
        "None needed if the loss is meant; judge it by the quality of the text.",
        "lossy",
        seen.first_wrong(patient.tolerance),
        distance=seen.worst,
    )


def in_numbers(patient: Patient, first: Seen, runs: list[Seen]) -> Explained | None:
    """The theories with a capacity; where several fit, a text that goes on behind it decides."""
    theories = numbered(patient, first)
    found = explain(patient, theories, [first, *runs])
    if found is None or len(found.names) == 1:
        return found
    total = patient.room(LENGTH + MORE)
    longer = patient.see(Schedule(patient.text(total, seed=3), singles(first.run.schedule.sizes[0], total)))
    left = [theory for theory in theories if theory.name in found.names]
    return explain(patient, left, [first, *runs, longer]) or found


def numbered(patient: Patient, seen: Seen) -> list[Theory]:
    """Theories with a capacity, which the first wrong token tells, or the few that it leaves open."""
    token = seen.first_wrong(patient.tolerance)
    if not token:
        return []
    prefill, *later = seen.run.schedule.sizes
    one_by_one = token > prefill and set(later) == {1}
    theories = [*full_at(token), *map(counted, [token - 1] if one_by_one else range(1, token))]
    for held in [token] if token > prefill else range(2, prefill + 1):
        for sinks in range(min(held, 5)):
            theories += evicted(sinks, held)
    if token <= prefill:
        theories += [one for a in range(prefill) for b in range(a + 1, prefill) for one in dropped(a, b)]
    return theories


def raised(patient: Patient, seen: dict[str, Seen]) -> list[Finding]:
    """Nothing wrong, but a cut that could not be passed to its end."""
    errors = {name: one.run.error for name, one in seen.items() if one.run.error is not None}
    name = "prefill, then single steps"
    if name not in errors:
        return []
    at = seen[name].run.schedule.total
    error = errors[name]
    return [
        Finding(
            "unknown",
            f"{name}: the step raised {type(error).__name__} at token {at}: {error}",
            "Make single steps work first; the message says what the step could not do.",
            "unknown",
            at,
        )
    ]
