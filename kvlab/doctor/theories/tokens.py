"""The wrong tokens in the cache: passed twice, or left over from another text."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kvlab.doctor.names import UNCLEARED
from kvlab.doctor.sheet import Lay, Lines, Sheet, causal, count, right
from kvlab.doctor.theories.base import Theory, from_zero


def _fed(s: Sheet, fed: Tensor, restart: bool) -> Lines:
    real = torch.ones_like(fed, dtype=torch.bool)
    return Lines(fed, from_zero(s, fed, real) if restart else count(s, real), causal(s, real))


def _appended(restart: bool) -> Lay:
    """Every call feeds the whole text so far; the cache keeps all of it."""
    return lambda s, t, r: _fed(s, torch.cat((s.tokens[:, s.asked], t), dim=1), restart)


def _again(last_only: bool, restart: bool) -> Lay:
    """The second call feeds the first call's tokens (or the last of them) once more."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        if s.calls != 1:
            return right(s, t, r)
        return _fed(s, torch.cat((s.tokens[:, -1:] if last_only else s.tokens, t), dim=1), restart)

    return lay


def _twice(every: bool, restart: bool) -> Lay:
    """The first call, or every call, finds its own tokens in the cache already."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        if s.calls and not every:
            return right(s, t, r)
        lines, new = _fed(s, torch.cat((t, t), dim=1), False), t.shape[1]
        if restart:
            lines.positions[:, new:] = lines.positions[:, :new]
        return lines

    return lay


APPENDED, COVERS = "whole-sequence-appended", "cache-covers-prompt"
TOKENS = [
    Theory(APPENDED, "every call appends the whole text so far", _appended(False)),
    Theory(APPENDED, "every call appends the whole text so far, at positions from 0", _appended(True)),
    Theory(COVERS, "the second call feeds the first call's tokens once more", _again(False, False)),
    Theory(COVERS, "the second call feeds them once more, at positions from 0", _again(False, True)),
    Theory(COVERS, "the second call feeds the last cached token once more", _again(True, False)),
    Theory(COVERS, "the first call finds its tokens in the cache already", _twice(False, False)),
    Theory(COVERS, "every call finds its tokens in the cache already", _twice(True, False)),
    Theory(COVERS, "the first call finds its tokens there, at its positions", _twice(False, True)),
    Theory(COVERS, "every call finds its tokens there, at its positions", _twice(True, True)),
]


def after(old: Tensor, restart: bool = False) -> Lay:
    """A text that goes on behind another one, `old [batch, n]`, which was never cleared away."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        if s.calls:
            return right(s, t, r)
        lines = _fed(s, torch.cat((old, t), dim=1), False)
        if restart:
            lines.positions = torch.cat(
                [torch.arange(x.shape[1]).expand(len(x), -1) for x in (old, t)], dim=1
            )
        return lines

    return lay


def instead(old: Tensor) -> Lay:
    """The first call's entries are another prompt's, `old [batch, n]`; only its last token is its own."""

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        if s.calls:
            return right(s, t, r)
        if old.shape[1] < t.shape[1]:
            return right(s, t, r)
        return _fed(s, torch.cat((old[:, : t.shape[1] - 1], t[:, -1:]), dim=1), False)

    return lay


def stale(old: Tensor) -> Lay:
    """Slots are written from 0 again, and those behind still hold, and show, the old text."""
    held = old.shape[1]

    def lay(s: Sheet, t: Tensor, r: Tensor) -> Lines:
        new, batch = t.shape[1], len(t)
        if not s.calls:  # the old entries were computed among themselves; they come along in the first call
            lines = _fed(s, torch.cat((old, t), dim=1), False)
            lines.visible[:, held:, : min(new, held)] = False
            lines.positions = torch.cat([torch.arange(n).expand(batch, n) for n in (held, new)], dim=1)
            return lines
        lines = right(s, t, r)
        lines.visible[:, :, : min(s.total - held + new, held)] = False
        lines.positions = lines.positions - held
        return lines

    return lay


def uncleared(old: Tensor) -> Iterator[Theory]:
    """What may be left of an earlier text, `old [1, n]`."""
    behind = "it goes on behind an earlier text, which is still in the cache"
    for name in UNCLEARED:
        yield Theory(name, behind, after(old))
        yield Theory(name, behind + ", at positions from 0", after(old, restart=True))
    yield Theory(
        "static-not-reset", "slots that it has not overwritten yet still show an earlier text", stale(old)
    )
