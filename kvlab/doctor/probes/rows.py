"""Three different texts as one batch: each row must come out as its text does alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule, gaps, singles
from kvlab.doctor.subject import Unable

ROWS, PREFILL, TOTAL = 3, 5, 8


def probe(patient: Patient) -> list[Finding]:
    if not patient.subject.batched:
        raise Unable("it takes one row")
    tokens = patient.text(TOTAL, seed=17, batch=ROWS)
    seen = patient.see(Schedule(tokens, singles(PREFILL, TOTAL)))
    if not patient.wrong(seen):
        return []
    token = seen.first_wrong(patient.tolerance)
    swapped = mixture(patient, seen.run.logits[:, token], tokens[:, : (token or 0) + 1], PREFILL)
    swapped = swapped or _intruders(patient, tokens)
    names = ("rows-permuted",) if swapped else ()
    return [
        Finding(
            " | ".join(names) or "unknown",
            f"as a batch of {ROWS}, rows are up to {patient.size(seen.worst)} from their texts alone"
            + (f": {swapped}" if swapped else ""),
            fix_of(names),
            "bug" if names else "unknown",
            token,
            distance=seen.worst,
        )
    ]


def _intruders(patient: Patient, tokens: Tensor) -> str:
    """The same, by changing one row's past at a time."""
    prefix, new = tokens[:, :PREFILL], tokens[:, PREFILL : PREFILL + 1]

    def last(past: Tensor) -> Tensor:
        text = torch.cat((past, new), dim=1)
        return patient.run(Schedule(text, (PREFILL, 1))).logits[:, -1]

    return intruders(patient, last, prefix, list(range(ROWS)))


def mixture(patient: Patient, logits: Tensor, tokens: Tensor, prefix: int) -> str:
    """Which row's past each row's step read, in words; "" where it was none of them.

    logits: `[rows, vocab]` of the last of `tokens [rows, total]`, whose first `prefix` were cached before.
    """
    rows = len(tokens)
    read = []
    for i in range(rows):
        for j in range(rows):
            crossed = tokens[i : i + 1].clone()
            crossed[:, :prefix] = tokens[j, :prefix]
            expected = _last(patient, crossed, prefix)
            if float((logits[i] - expected).abs().max()) < patient.tolerance:
                read.append(j)
                break
        else:
            own = _last(patient, tokens[i : i + 1], prefix)
            if any(float((logits[j] - own).abs().max()) < patient.tolerance for j in range(rows)):
                return f"row {i} comes out as another row's result"
            return ""
    if read == list(range(rows)):
        return ""
    return ", ".join(f"row {i} read the past of row {j}" for i, j in enumerate(read) if i != j)


def intruders(patient: Patient, last: Callable[[Tensor], Tensor], prefix: Tensor, sources: list[int]) -> str:
    """Which other rows' pasts each row reads, in words; "" where each reads its own only.

    `last(prefix [rows, tokens]) -> logits [rows, vocab]` runs the batch; row i should go on with the past of
    row `sources[i]`. Change one row's past at a time: only the row that continues it may move. What moves
    others need not be whole entries: keys that followed and values that did not, or a layer left out.
    """
    before = last(prefix)
    read: dict[int, list[int]] = {}
    for j in range(len(prefix)):
        changed = prefix.clone()
        changed[j] = patient.text(prefix.shape[1], seed=37)
        moved = gaps(last(changed)[None], before[None])[0] > patient.tolerance  # [rows]
        for i in moved.nonzero().flatten().tolist():
            if sources[i] != j:
                read.setdefault(i, []).append(j)
    told = [f"row {i} reads row {' and '.join(map(str, js))}" for i, js in sorted(read.items())]
    goes_on = ", ".join(f"row {i} with row {j}'s" for i, j in enumerate(sources))
    return f"{', '.join(told)}; pasts were to be continued: {goes_on}" if told else ""


def _last(patient: Patient, tokens: Tensor, prefix: int) -> Tensor:
    """Logits `[vocab]` that should come out behind `tokens [1, total]`."""
    return patient.expect(Schedule(tokens, singles(prefix, tokens.shape[1])))[0, -1]
