"""Theories with a number in them: a capacity, a window, a budget; the first wrong token tells which."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from kvlab.doctor.sheet import Lines, Sheet, causal, count
from kvlab.doctor.theories.base import At, See, Theory, masked, placed

OVERFLOW, STORED = "static-overflow", "positions-from-stored-length"


def full_at(capacity: int) -> Iterator[Theory]:
    """What a store of `capacity` slots may do with one token more."""
    slides, afresh, clamped = _slides(capacity), _afresh(capacity), _clamped(capacity)
    yield masked("capacity-becomes-window", f"only the last {capacity} tokens are seen", slides)
    says = f"tokens after the first {capacity} are not stored"
    yield masked(OVERFLOW, says, _lost(capacity, True))
    yield masked(OVERFLOW, f"{says}, nor see themselves", _lost(capacity, False))
    yield masked(OVERFLOW, f"every token after the first {capacity} overwrites the last slot", clamped)
    yield masked(
        OVERFLOW, f"after {capacity} tokens the store begins at slot 0 and sees only what is new", afresh
    )
    for see, does in ((slides, "overwrites the oldest slot"), (afresh, "begins afresh"), (clamped, "stays")):
        says = f"after {capacity} tokens the store {does}, and positions"
        yield Theory(OVERFLOW, f"{says} start at 0 again", partial(_lay_at, see, _modulo(capacity)))
        yield Theory(OVERFLOW, f"{says} stand still", partial(_lay_at, see, _at_most(capacity - 1)))


def _slides(capacity: int) -> See:
    return lambda s, t, r, mask: (
        mask & torch.ones(t.shape[1], mask.shape[2], dtype=torch.bool).triu(s.total - capacity + 1)
    )


def _lost(capacity: int, own: bool) -> See:
    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        mine = torch.ones(t.shape[1], mask.shape[2], dtype=torch.bool).triu(s.total) & own
        mask[:, :, capacity:] &= mine[:, capacity:]
        return mask

    return see


def _clamped(capacity: int) -> See:
    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        newest = torch.eye(mask.shape[2], dtype=torch.bool)[s.total :]
        mask[:, :, capacity - 1 :] &= newest[:, capacity - 1 :]
        return mask

    return see


def _afresh(capacity: int) -> See:
    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        start = torch.arange(s.total, s.total + t.shape[1]) // capacity * capacity
        return mask & (torch.arange(mask.shape[2])[None, :] >= start[:, None])

    return see


def _lay_at(see: See, at: At, s: Sheet, t: Tensor, r: Tensor) -> Lines:
    return Lines(t, at(s, t, r), see(s, t, r, causal(s, r)))


def _modulo(capacity: int) -> At:
    return lambda s, t, r: count(s, r) % capacity


def _at_most(highest: int, later: bool = False) -> At:
    return lambda s, t, r: count(s, r) if later and not s.calls else count(s, r).clamp(max=highest)


def evicted(sinks: int, seen: int) -> Iterator[Theory]:
    """After the first call a query sees the first `sinks` tokens and the newest, `seen` with itself."""

    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        if s.calls:
            recent = torch.ones(t.shape[1], mask.shape[2], dtype=torch.bool).triu(
                s.total - (seen - sinks) + 1
            )
            recent[:, :sinks] = True
            mask = mask & recent
        return mask

    kept = f"only the newest {seen} tokens are seen"
    if not sinks:
        yield masked("capacity-becomes-window", kept + " after the first call", see)
    else:
        kept = f"only the first {sinks} and the newest {seen - sinks} tokens are seen"
        yield masked("eviction", kept, see)
    for held in (seen - 1, seen):
        says = f"{kept}, and positions are the number of stored entries"
        yield Theory(STORED, says, partial(_lay_at, see, _at_most(held, later=True)))


def counted(held: int) -> Theory:
    """All is seen that a query may see, and positions go on from the number stored, at most `held`."""

    def at(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
        return count(s, r) - (s.seen - held).clamp(min=0) if s.calls else count(s, r)

    says = f"positions go on from the number of stored entries, which is never more than {held}"
    return placed(STORED, says, at)


def dropped(start: int, stop: int) -> Iterator[Theory]:
    """After the first call its tokens `start` to `stop` are gone for good."""

    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        if s.calls:
            mask[:, :, start : min(stop, s.first_call())] = False
        return mask

    def at(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
        return count(s, r) - (min(stop, s.first_call()) - min(start, s.first_call()) if s.calls else 0)

    kept = f"tokens {start} to {stop - 1} are gone after the first call"
    yield masked("eviction", kept, see)
    yield Theory(STORED, f"{kept}, and positions are the number of stored entries", partial(_lay_at, see, at))
