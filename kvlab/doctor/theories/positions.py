"""Right tokens under the right mask, in the wrong place."""

from __future__ import annotations

from torch import Tensor

from kvlab.doctor.sheet import Sheet, count, slots
from kvlab.doctor.theories.base import At, from_zero, placed


def _off(by: int, later: bool) -> At:
    def at(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
        return (count(s, r) + (by if s.calls or not later else 0)).clamp(min=0)

    return at


def _stored(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
    return slots(s, t.shape[1], len(t)) if s.calls else count(s, r)


def _padding_counted_first(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
    return count(s, r) if s.calls else slots(s, t.shape[1], len(t))


OFF = "offset-by-one"
POSITIONS = [
    placed("positions-restart", "every call counts its positions from 0 again", from_zero),
    placed(OFF, "after the first call every position is one too far", _off(1, True)),
    placed(OFF, "after the first call every position is one short", _off(-1, True)),
    placed(OFF, "every position is one too far", _off(1, False)),
    placed(OFF, "every call puts its tokens one further too far", lambda s, t, r: count(s, r) + s.calls),
    placed(
        OFF,
        "every call puts its tokens one further short",
        lambda s, t, r: (count(s, r) - s.calls).clamp(min=0),
    ),
    placed(
        "whole-sequence-with-new-only-flag",
        "the past is counted twice: a token's position is the cached length plus its place in the whole text",
        lambda s, t, r: count(s, r) + s.seen,
    ),
]

PADDED_POSITIONS = [
    placed(
        "positions-from-stored-length",
        "after the first call positions are the number of stored entries, padding included",
        _stored,
    ),
    placed(
        "padding-without-positions",
        "padding is counted as positions",
        lambda s, t, r: slots(s, t.shape[1], len(t)),
    ),
    placed(
        "padding-without-positions",
        "padding is counted as positions in the first call and not later",
        _padding_counted_first,
    ),
]
