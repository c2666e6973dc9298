"""What can be found out about a step without a model: who reads whom, since when, and what for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvlab.doctor.patient import Patient
from kvlab.doctor.schedule import Schedule, gaps, singles

PROMPT = 5
NOTHING = 1e-6  # of the tolerance: a token that is not read at all moves nothing, to the last bit


def later_tokens_leak(patient: Patient, sizes: tuple[int, ...]) -> bool:
    """Whether a token's logits move when the token behind it, in the same call, is another one."""
    total = sum(sizes)
    tokens = patient.text(total, seed=21)
    changed = tokens.clone()
    changed[0, -1] = patient.text(total + 1, seed=22)[0, -1]
    if changed[0, -1] == tokens[0, -1]:
        changed[0, -1] = tokens[0, -2]
    a, b = (patient.run(Schedule(t, sizes)).logits[:, :-1] for t in (tokens, changed))
    return float(gaps(a, b).max()) > patient.tolerance


def moved_by(patient: Patient, last: Callable[[Tensor], Tensor], total: int, at: list[int]) -> list[float]:
    """How far `last(tokens [1, total]) -> logits [1, 1, vocab]` moves if the token at each place changes."""
    tokens, other = patient.text(total, seed=23), patient.text(total, seed=24)
    before = last(tokens)
    moved = []
    for i in at:
        changed = tokens.clone()
        changed[0, i] = other[0, i] if other[0, i] != tokens[0, i] else tokens[0, i - 1]
        moved.append(float(gaps(before, last(changed)).max()))
    return moved


def read_by_next(patient: Patient) -> list[int]:
    """Which of the prompt's tokens the first single step behind it reads: change one, see the logits move."""

    def last(tokens: Tensor) -> Tensor:
        return patient.run(Schedule(tokens, singles(PROMPT, PROMPT + 1))).logits[:, -1:]

    moved = moved_by(patient, last, PROMPT + 1, list(range(PROMPT)))
    return [i for i, far in enumerate(moved) if far > patient.tolerance]


def lost(patient: Patient, prefill: int, total: int, at: list[int]) -> list[int]:
    """Which of the tokens `at` the last of `total` does not read, though full recompute does.

    The first `prefill` tokens are passed in one call, the others one by one.
    """

    def stepped(tokens: Tensor) -> Tensor:
        done = patient.run(Schedule(tokens, singles(prefill, total)))
        if done.error is not None:
            raise done.error
        return done.logits[:, -1:]

    def recomputed(tokens: Tensor) -> Tensor:
        return patient.truth_from.full(tokens)[:, -1:]

    read, due = (moved_by(patient, last, total, at) for last in (stepped, recomputed))
    nothing = NOTHING * patient.tolerance
    return [i for i, a, b in zip(at, read, due, strict=True) if a <= nothing < b]


def forgets(patient: Patient, total: int) -> bool:
    """Whether by full recompute the last of `total` tokens reads nothing of the first: there are windows."""

    def recomputed(tokens: Tensor) -> Tensor:
        return patient.truth_from.full(tokens)[:, -1:]

    return moved_by(patient, recomputed, total, [0])[0] <= NOTHING * patient.tolerance


def right_on_one_word(patient: Patient, total: int = PROMPT + 4) -> bool:
    """Whether a text that repeats one token comes out right.

    All its values are the same then, so wherever a query looks, and however far it takes that to be, it
    finds the same thing: with rotary positions only damaged content can still be wrong.
    """
    tokens = patient.text(1, seed=25).expand(1, total)
    return not patient.wrong(patient.see(Schedule(tokens, singles(min(PROMPT, total), total))))


def at_position_zero(patient: Patient) -> list[bool]:
    """One token, again and again, in calls of one: which of the later ones come out as the first did?

    Where a model's positions show in its values (learned, sinusoidal), only a token at position 0 that reads
    nothing but tokens at position 0 comes out like a text of one token. Empty: positions do not show.
    """
    tokens = patient.text(1, seed=26).expand(1, PROMPT)
    seen = patient.see(Schedule(tokens, singles(1, PROMPT)))
    first = seen.truth[:, :1]
    if float(gaps(seen.truth[:, 1:], first).min()) <= patient.tolerance:
        return []
    return [far <= patient.tolerance for far in gaps(seen.run.logits, first)[0, 1:].tolist()]


def onsets(patient: Patient, prefills: tuple[int, ...] = (2, 3, 5), total: int = 12) -> dict[int, int | None]:
    """The first wrong token for prompts of different lengths, each followed by single steps."""
    total = patient.room(total)
    runs = {n: patient.see(Schedule(patient.text(total, seed=27), singles(n, total))) for n in prefills}
    return {n: seen.first_wrong(patient.tolerance) for n, seen in runs.items()}


def same_twice(patient: Patient, tokens: torch.Tensor) -> bool:
    """Whether two equal runs from the empty state agree to the last bit or nearly so."""
    schedule = Schedule(tokens, singles(tokens.shape[1] - 2, tokens.shape[1]))
    a, b = (patient.run(schedule).logits for _ in range(2))
    return float(gaps(a, b).max()) <= 1e-3 * patient.tolerance
