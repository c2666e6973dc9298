"""Misuses that reach into a cache's content cannot be laid on a sheet: they are done again, and compared.

The cache without guards lets us turn cached keys; for kvlab's decoders only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.doctor.explain import Explained, fits
from kvlab.doctor.loose import Loose
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.reference import KvlabReference
from kvlab.doctor.schedule import gaps
from kvlab.model.rotary import angles, rotate


@dataclass(frozen=True)
class Replay:
    """`turn(loose, positions, call)`: what becomes of the cached keys after call number `call`."""

    name: str
    says: str
    turn: Callable[[Loose, Tensor, int], None]


def turned(loose: Loose, slots: slice, by: Tensor) -> None:
    """Rotate the cached keys at `slots` by so many positions more."""
    frequencies = loose.lm.kinds["full"].frequencies
    cos, sin = angles(by[None, None, slots], frequencies, loose.lm.dtype)
    for layer in loose.layers:
        assert layer.keys is not None
        keys = layer.keys.clone()
        keys[:, :, slots] = rotate(keys[:, :, slots], cos, sin)
        layer.keys = keys


def _unrotated(first_only: bool, later_only: bool, sign: int) -> Callable[[Loose, Tensor, int], None]:
    done = {"slots": 0}

    def turn(loose: Loose, positions: Tensor, call: int) -> None:
        start = 0 if call == 0 else done["slots"]
        done["slots"] = loose.length
        if (first_only and call > 0) or (later_only and call == 0):
            return
        turned(loose, slice(start, loose.length), sign * positions)

    return turn


def _each_time(loose: Loose, positions: Tensor, call: int) -> None:
    turned(loose, slice(0, loose.length), positions)


def replays() -> list[Replay]:
    name, says = "mixed-rotation", "cached keys {} are kept {}"
    plain, twice = "unrotated, and read as they are", "rotated twice"
    return [
        Replay(name, says.format("of every call", plain), _unrotated(False, False, -1)),
        Replay(name, says.format("of the first call", plain), _unrotated(True, False, -1)),
        Replay(name, says.format("of later calls", plain), _unrotated(False, True, -1)),
        Replay(name, says.format("of every call", twice), _unrotated(False, False, 1)),
        Replay(name, says.format("of the first call", twice), _unrotated(True, False, 1)),
        Replay(name, says.format("of later calls", twice), _unrotated(False, True, 1)),
        Replay(name, "the whole cache is rotated once more after every call", _each_time),
    ]


@torch.no_grad()
def play(loose: Loose, replay: Replay, seen: Seen) -> Tensor:
    """Logits `[batch, total, vocab]` of a run with that replay's keys."""
    out, schedule = [], seen.run.schedule
    for number, (tokens, _) in enumerate(schedule.parts()):
        out.append(loose(tokens.to(loose.lm.device)))
        replay.turn(loose, torch.arange(loose.length), number)
    return torch.cat(out, dim=1)


def replayed(patient: Patient, runs: Sequence[Seen]) -> Explained | None:
    """The replay that gives the same logits in every run."""
    reference = patient.reference
    if not isinstance(reference, KvlabReference) or "sliding" in reference.model.kinds:
        return None
    for index, replay in enumerate(replays()):
        misses = []
        for seen in runs:
            fresh = replays()[index]  # each has a memory of its own
            logits = play(Loose(reference.model), fresh, seen)
            misses.append(float(gaps(seen.run.logits, logits).max()))
        if all(fits(patient, miss, seen) for miss, seen in zip(misses, runs, strict=True)):
            return Explained((replay.name,), replay.says, max(misses))
    return None
