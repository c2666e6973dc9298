"""One theory for each way to get positions, masks or tokens wrong: what is laid on the sheet instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kvlab.doctor.sheet import Lay, Lines, Sheet, causal, count, right, slots

At = Callable[[Sheet, Tensor, Tensor], Tensor]  # (sheet, tokens, real) -> positions [batch, new]
See = Callable[[Sheet, Tensor, Tensor, Tensor], Tensor]  # (…, right mask) -> mask [batch, new, past + new]


@dataclass(frozen=True)
class Theory:
    """`lay` predicts exactly what a decoding step with the misuse `name` computes."""

    name: str
    says: str  # what happens, in words
    lay: Lay


def _placed(name: str, says: str, at: At) -> Theory:
    """Everything right but the positions."""
    return Theory(name, says, lambda s, t, r: Lines(t, at(s, t, r), causal(s, r)))


def _masked(name: str, says: str, see: See) -> Theory:
    """Everything right but the mask."""
    return Theory(name, says, lambda s, t, r: Lines(t, count(s, r), see(s, t, r, causal(s, r))))


# --- positions ---


def _restart(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
    return (r.long().cumsum(1) - 1).clamp(min=0)


def _off(by: int, later: bool) -> At:
    def at(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
        return count(s, r) + (by if s.calls or not later else 0)

    return at


def _stored(s: Sheet, t: Tensor, r: Tensor) -> Tensor:
    return slots(s, t.shape[1], len(t)) if s.calls else count(s, r)


POSITIONS = [
    _placed("positions-restart", "every call counts its positions from 0 again", _restart),
    _placed("offset-by-one", "after the first call every position is one too far", _off(1, True)),
    _placed("offset-by-one", "after the first call every position is one short", _off(-1, True)),
    _placed("offset-by-one", "every position is one too far", _off(1, False)),
    _placed(
        "whole-sequence-with-new-only-flag",
        "the past is counted twice: a token's position is the cached length plus its place in the whole text",
        lambda s, t, r: count(s, r) + s.seen,
    ),
]

PADDED_POSITIONS = [
    _placed(
        "positions-from-stored-length",
        "after the first call positions are the number of stored entries, padding included",
        _stored,
    ),
    _placed(
        "padding-without-positions",
        "padding is counted as positions",
        lambda s, t, r: slots(s, t.shape[1], len(t)),
    ),
    _placed(
        "padding-without-positions",
        "padding is counted as positions in the first call and not later",
        lambda s, t, r: count(s, r) if s.calls else slots(s, t.shape[1], len(t)),
    ),
]

# --- masks ---


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


MASKS = [
    _masked("mask-new-tokens-only", "new tokens see each other and nothing of the past", _new_only),
    _masked(
        "mask-new-tokens-only", "as many slots are visible as there are new tokens: the first", _first_slots
    ),
    _masked("mask-new-tokens-only", "new tokens see the first slots and themselves", _first_and_self),
    _masked("mask-top-left", "query i sees slots 0 to i, as if nothing were cached", _top_left),
    _masked("no-mask-in-chunk", "tokens of a later call see those behind them", _chunk_open(True)),
    _masked("no-mask-in-chunk", "tokens of every call see those behind them", _chunk_open(False)),
    _masked("own-entry-left-out", "a single new token does not see itself", _without_self(True, False)),
    _masked("own-entry-left-out", "a single token never sees itself", _without_self(False, False)),
    _masked("own-entry-left-out", "after the first call no token sees itself", _without_self(True, True)),
    _masked("own-entry-left-out", "no token sees itself", _without_self(False, True)),
    _masked("own-entry-left-out", "a call sees the past and nothing of its own", _past_only),
    _masked("own-entry-left-out", "new entries are never stored", _never_stored(True)),
    _masked("own-entry-left-out", "only the first call is ever seen", _never_stored(False)),
]


def _unmasked(positions: str, when: str) -> Lay:
    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        open_now = when == "always" or (when == "first") == (s.calls == 0)
        mask = (
            causal(replace(s, real=torch.ones_like(s.real)), torch.ones_like(r)) if open_now else causal(s, r)
        )
        at = count(s, r) if positions == "counted" else slots(s, t.shape[1], len(t))
        return Lines(t, at, mask)

    return lay


PADDED_MASKS = [
    Theory(
        "padding-without-mask",
        f"padding is seen like text{w}, positions {p}",
        _unmasked(kind, when),
    )
    for kind, p in (("slots", "count it"), ("counted", "do not count it"))
    for when, w in (("always", ""), ("first", " in the first call"), ("later", " after the first call"))
]

# --- tokens ---


def _appended(restart: bool) -> Lay:
    """Every call feeds the whole text so far; the cache keeps all of it."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        before = s.tokens[:, s.asked]  # what the caller has passed so far
        fed = torch.cat((before, t), dim=1)
        real = torch.ones_like(fed, dtype=torch.bool)
        at = _restart(s, fed, real) if restart else count(s, real)
        return Lines(fed, at, causal(s, real))

    return lay


def _again(last_only: bool, restart: bool) -> Lay:
    """The second call feeds the first call's tokens (or the last of them) once more."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        if s.calls != 1:
            return right(s, t, r)
        fed = torch.cat((s.tokens[:, -1:] if last_only else s.tokens, t), dim=1)
        real = torch.ones_like(fed, dtype=torch.bool)
        return Lines(fed, _restart(s, fed, real) if restart else count(s, real), causal(s, real))

    return lay


TOKENS = [
    Theory("whole-sequence-appended", "every call appends the whole text so far", _appended(False)),
    Theory(
        "whole-sequence-appended", "every call appends the whole text so far, at positions from 0", _appended(True)
    ),
    Theory("cache-covers-prompt", "the second call feeds the first call's tokens once more", _again(False, False)),
    Theory(
        "cache-covers-prompt", "the second call feeds the first call's tokens again, at positions from 0",
        _again(False, True),
    ),
    Theory("cache-covers-prompt", "the second call feeds the last cached token once more", _again(True, False)),
]  # fmt: skip


def after(old: Tensor, restart: bool = False) -> Lay:
    """A text that goes on behind another one, `old [batch, n]`, which was never cleared away."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        if s.calls:
            return right(s, t, r)
        fed = torch.cat((old, t), dim=1)
        real = torch.ones_like(fed, dtype=torch.bool)
        lines = Lines(fed, count(s, real), causal(s, real))
        if restart:
            lines.positions = torch.cat(
                [torch.arange(x.shape[1]).expand(len(x), -1) for x in (old, t)], dim=1
            )
        return lines

    return lay


# --- what depends on a number: a capacity, a window, a budget ---


def full_at(capacity: int) -> Iterator[Theory]:
    """What a store of `capacity` slots may do with one token more."""

    def windowed(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        return mask & torch.ones(t.shape[1], mask.shape[2], dtype=torch.bool).triu(s.total - capacity + 1)

    def lost(own: bool) -> See:
        def see(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
            mine = torch.ones(t.shape[1], mask.shape[2], dtype=torch.bool).triu(s.total) & own
            mask[:, :, capacity:] &= mine[:, capacity:]
            return mask

        return see

    def clamped(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        newest = torch.eye(mask.shape[2], dtype=torch.bool)[s.total :]
        mask[:, :, capacity - 1 :] &= newest[:, capacity - 1 :]
        return mask

    def afresh(s: Sheet, t: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        start = torch.arange(s.total, s.total + t.shape[1]) // capacity * capacity
        return mask & (torch.arange(mask.shape[2])[None, :] >= start[:, None])

    yield _masked("capacity-becomes-window", f"only the last {capacity} tokens are seen", windowed)
    overflow = "static-overflow"
    yield _masked(overflow, f"tokens after the first {capacity} are not stored", lost(True))
    yield _masked(
        overflow, f"tokens after the first {capacity} are not stored, nor see themselves", lost(False)
    )
    yield _masked(overflow, f"every token after the first {capacity} overwrites the last slot", clamped)
    yield _masked(
        overflow, f"after {capacity} tokens the store begins at slot 0 and sees only what is new", afresh
    )
    for see, does in (
        (windowed, "overwrites the oldest slot"),
        (afresh, "begins afresh"),
        (clamped, "stays"),
    ):
        says = f"after {capacity} tokens the store {does}, and positions"
        yield Theory(overflow, f"{says} start at 0 again", partial(_lay_at, see, _modulo(capacity)))
        yield Theory(overflow, f"{says} stand still", partial(_lay_at, see, _at_most(capacity - 1)))


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
    if sinks:
        kept = f"only the first {sinks} and the newest {seen - sinks} tokens are seen"
        yield _masked("eviction", kept, see)
    for held in (seen - 1, seen):
        says = f"{kept}, and positions are the number of stored entries"
        yield Theory("positions-from-stored-length", says, partial(_lay_at, see, _at_most(held, later=True)))
