"""What can be said of a wrong step without a model to recompute with: which tokens it reads, and when."""

from __future__ import annotations

from kvlab.doctor.experiments import (
    PROMPT,
    at_position_zero,
    forgets,
    later_tokens_leak,
    lost,
    onsets,
    read_by_next,
    right_on_one_word,
)
from kvlab.doctor.names import FROM_THE_SECOND_STEP, OUT_OF_SIGHT, WHEN_FULL, WRONG_DISTANCE
from kvlab.doctor.patient import Patient

Told = tuple[tuple[str, ...], str]  # names, or none, and what was seen
OVERFLOW, COUNTED = ("static-overflow",), ("positions-from-stored-length",)
NEAR, FAR = 3, 40  # how far behind the first wrong token its readers are asked


def signature(patient: Patient, chunk_fits: bool = True) -> Told:
    """Names for a step that is wrong in a short text."""
    if later_tokens_leak(patient, (PROMPT,)) or (chunk_fits and later_tokens_leak(patient, (PROMPT, 3))):
        return ("no-mask-in-chunk",), "logits move when a later token of the same call is changed"
    read = read_by_next(patient)
    if not read:
        return ("mask-new-tokens-only",), "a step's logits stay the same whatever the past was"
    if read == [0]:
        return ("mask-top-left",), "a step reads token 0 only: other changes of the past leave it as it is"
    if len(read) < PROMPT:
        return (), f"a step behind {PROMPT} tokens reads only tokens {read}"
    return _at_zero(patient) or _by_onset(patient)


def _at_zero(patient: Patient) -> Told | None:
    """Positions that show in the values tell by themselves where a repeated token was put."""
    zeros = at_position_zero(patient)
    if zeros and all(zeros):
        return (
            "positions-restart",
        ), "a token that is passed again and again always comes out as at position 0"
    if zeros[:1] == [True] and not any(zeros[1:]):
        return ("offset-by-one",), (
            "a token that is passed again and again comes out as at position 0 twice and not later: after "
            "the first call every position is one short"
        )
    return None


def _by_onset(patient: Patient) -> Told:
    """All the right tokens are read; what is left is how far away they are taken to be, and since when."""
    first = onsets(patient)
    late = set(first.values())
    token = late.pop() if len(late) == 1 else None
    if token is not None and token > max(first):
        return when_full(patient, token)
    if not right_on_one_word(patient):
        return (), "every earlier token is read, and even a text that repeats one token comes out wrong"
    says = (
        "every earlier token is read, and a text that repeats one token comes out right: what is read is "
        "right, how far away it is taken to be is not"
    )
    if all(wrong == prefill + 1 for prefill, wrong in first.items()):
        if lost(patient, PROMPT, PROMPT + 2, [PROMPT]):
            return (
                "own-entry-left-out",
            ), "the second single step does not read the first, as if never stored"
        return FROM_THE_SECOND_STEP, f"{says}, from the second single step on, however long the prompt"
    return WRONG_DISTANCE, says


def when_full(patient: Patient, token: int) -> Told:
    """Names for a step that is right up to `token`, whatever the calls: ask who is read behind it."""
    plain = f"right up to token {token - 1}, wrong from there on, as where a store is full"
    try:
        return _not_stored(patient, token) or _forgotten(patient, token) or ((), plain)
    except Exception:  # it takes no text that is long enough to ask
        return (), plain


def _not_stored(patient: Patient, token: int) -> Told | None:
    """New tokens that nobody behind them reads; or old ones, all at once."""
    near = sorted({0, 1, token // 2, *range(max(token - NEAR, 0), token + NEAR)})
    gone = lost(patient, token - 1, token + NEAR + 1, near)
    read = [i for i in near if i not in gone]
    if gone and read and max(read) < min(gone) <= token:
        return OVERFLOW, (
            f"right up to token {token - 1}; tokens from {min(gone)} on are read by none behind them, so "
            "they are not stored, or each overwrites the one before"
        )
    if gone and max(gone) < min(read, default=0) == token:
        return OVERFLOW, (
            f"right up to token {token - 1}; later ones read nothing of that: the store begins afresh"
        )
    return None


def _forgotten(patient: Patient, token: int) -> Told | None:
    """Old tokens that go out of sight by and by; where none do that should not, positions are left."""
    newest = token + FAR - 2
    gone = lost(patient, token - 1, token + FAR, sorted({0, 1, token // 2, token, token + FAR // 2, newest}))
    if gone and newest not in gone:
        return (
            OUT_OF_SIGHT,
            f"right up to token {token - 1}; {FAR} tokens later, tokens {gone} are out of sight",
        )
    if gone or not right_on_one_word(patient, token + NEAR):
        return None
    says = f"right up to token {token - 1}, and a text that repeats one token is right beyond it: "
    if forgets(patient, token + FAR):
        return COUNTED, says + "all is read that the model's own windows show, at a wrong distance"
    return WHEN_FULL, says + "it may have lost sight of entries, or take them to be at another distance"
