"""Right tokens in the right place, seeing too much or too little."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kvlab.doctor.sheet import Lay, Lines, Sheet, causal, count, slots
from kvlab.doctor.theories.base import See, Theory, masked


def _new_only(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    mask[:, :, : s.total] = False
    return mask


def _first_slots(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    mask[:, :, t.shape[1] :] = False
    return mask


def _first_and_self(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    own = torch.eye(t.shape[1], dtype=torch.bool)
    mask = _first_slots(s, t, r, mask)
    mask[:, :, s.total :] |= own
    return mask


def _top_left(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    new = t.shape[1]
    return mask & torch.ones(new, s.total + new, dtype=torch.bool).tril()


def _chunk_open(later: bool) -> See:
    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        if s.calls or not later:
            mask[:, :, s.total :] |= r[:, None, :]
        return mask

    return see


def _without_self(later: bool, chunks: bool) -> See:
    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        if (s.calls or not later) and (chunks or t.shape[1] == 1):
            mask[:, :, s.total :] &= ~torch.eye(t.shape[1], dtype=torch.bool)
        return mask

    return see


def _past_only(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    if s.calls:
        mask[:, :, s.total :] = False
    return mask


def _never_stored(own: bool) -> See:
    def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        if s.calls:
            mask[:, :, s.first_call() : s.total if own else None] = False
        return mask

    return see


LEFT_OUT = "own-entry-left-out"
MASKS = [
    masked("mask-new-tokens-only", "new tokens see each other and nothing of the past", _new_only),
    masked("mask-new-tokens-only", "only the first slots are seen, as many as tokens are new", _first_slots),
    masked("mask-new-tokens-only", "new tokens see the first slots and themselves", _first_and_self),
    masked("mask-top-left", "query i sees slots 0 to i, as if nothing were cached", _top_left),
    masked("no-mask-in-chunk", "tokens of a later call see those behind them", _chunk_open(True)),
    masked("no-mask-in-chunk", "tokens of every call see those behind them", _chunk_open(False)),
    masked(LEFT_OUT, "a single new token does not see itself", _without_self(True, False)),
    masked(LEFT_OUT, "a single token never sees itself", _without_self(False, False)),
    masked(LEFT_OUT, "after the first call no token sees itself", _without_self(True, True)),
    masked(LEFT_OUT, "no token sees itself", _without_self(False, True)),
    masked(LEFT_OUT, "a call sees the past and nothing of its own", _past_only),
    masked(LEFT_OUT, "new entries are never stored", _never_stored(True)),
    masked(LEFT_OUT, "only the first call is ever seen", _never_stored(False)),
]


def _unmasked(counted: bool, when: str) -> Lay:
    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        open_now = when == "always" or (when == "first") == (s.calls == 0)
        mask = causal(s, r)
        if open_now:
            mask = causal(replace(s, real=torch.ones_like(s.real)), torch.ones_like(r))
        return Lines(t, count(s, r) if counted else slots(s, t.shape[1], len(t)), mask)

    return lay


PADDED_MASKS = [
    Theory("padding-without-mask", f"padding is seen like text{w}, positions {p}", _unmasked(counted, when))
    for counted, p in ((False, "count it"), (True, "do not count it"))
    for when, w in (("always", ""), ("first", " in the first call"), ("later", " after the first call"))
]
