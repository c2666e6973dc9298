"""What can be said of a wrong step without a model to recompute with: who reads whom, is content right."""

from __future__ import annotations

import torch

from kvlab.doctor.names import WRONG_DISTANCE
from kvlab.doctor.patient import Patient
from kvlab.doctor.schedule import Schedule, gaps, singles

PROMPT = 5


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


def read_by_next(patient: Patient) -> list[int]:
    """Which of the prompt's tokens the first single step behind it reads: change one, see the logits move."""
    tokens = patient.text(PROMPT + 1, seed=23)
    other = patient.text(PROMPT + 1, seed=24)
    read = []
    schedule = Schedule(tokens, singles(PROMPT, PROMPT + 1))
    before = patient.run(schedule).logits[:, -1:]
    for i in range(PROMPT):
        changed = tokens.clone()
        changed[0, i] = other[0, i] if other[0, i] != tokens[0, i] else tokens[0, i - 1]
        after = patient.run(Schedule(changed, schedule.sizes)).logits[:, -1:]
        if float(gaps(before, after).max()) > patient.tolerance:
            read.append(i)
    return read


def right_on_one_word(patient: Patient) -> bool:
    """Whether a text that repeats one token comes out right.

    All its values are the same then, so wherever a query looks, and however far it takes that to be, it
    finds the same thing: with rotary positions only damaged content can still be wrong.
    """
    tokens = patient.text(1, seed=25).expand(1, PROMPT + 4)
    return not patient.wrong(patient.see(Schedule(tokens, singles(PROMPT, PROMPT + 4))))


def signature(patient: Patient, chunk_fits: bool = True) -> tuple[tuple[str, ...], str]:
    """Names, or none, and what was seen."""
    if later_tokens_leak(patient, (PROMPT,)) or (chunk_fits and later_tokens_leak(patient, (PROMPT, 3))):
        return ("no-mask-in-chunk",), "logits move when a later token of the same call is changed"
    read = read_by_next(patient)
    if not read:
        return ("mask-new-tokens-only",), "a step's logits stay the same whatever the past was"
    if read == [0]:
        return ("mask-top-left",), "a step reads token 0 only: other changes of the past leave it as it is"
    if len(read) < PROMPT:
        return (), f"a step behind {PROMPT} tokens reads only tokens {read}"
    if right_on_one_word(patient):
        return WRONG_DISTANCE, (
            "every earlier token is read, and a text that repeats one token comes out right: what is read is "
            "right, how far away it is taken to be is not"
        )
    return (), "every earlier token is read, and even a text that repeats one token comes out wrong"


def same_twice(patient: Patient, tokens: torch.Tensor) -> bool:
    """Whether two equal runs from the empty state agree to the last bit or nearly so."""
    schedule = Schedule(tokens, singles(tokens.shape[1] - 2, tokens.shape[1]))
    a, b = (patient.run(schedule).logits for _ in range(2))
    return float(gaps(a, b).max()) <= 1e-3 * patient.tolerance
