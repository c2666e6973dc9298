"""Who stays: what several policies ask of positions and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.stores.base import Step

FREE = -1  # as in kvlab.stores, which imports the evictions


def protected(positions: Tensor, step: Step, sinks: int, recent: int) -> Tensor:
    """Which entries are among the first `sinks` or the last `recent` tokens of their text.

    positions: `[batch, 1 or kv_heads, slots]`; returns bool of that shape, False at free slots.
    """
    newest = step.positions.amax(dim=-1)[:, None, None]  # [batch, 1, 1]
    return (positions >= 0) & ((positions < sinks) | (positions > newest - recent))


def most_held(positions: Tensor) -> int:
    """Entries of the row and head that holds most; `positions [batch, 1 or kv_heads, slots]`."""
    return int((positions >= 0).sum(dim=-1).max())


def best(scores: Tensor, positions: Tensor, n: int) -> Tensor:
    """Slots of the `n` highest scores, ascending, `[batch, 1 or kv_heads, n]`.

    scores, positions: `[batch, 1 or kv_heads, slots]`. Free slots are never chosen: where fewer than `n`
    entries are held, all of them stay, and FREE stands at the end.
    """
    slots, n = scores.shape[-1], min(n, most_held(positions))
    scores = scores.masked_fill(positions < 0, float("-inf")).flip(-1)
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :n]  # of equals the newest first
    rows = (slots - 1 - order).masked_fill(scores.gather(-1, order) == float("-inf"), slots)
    rows = rows.sort(dim=-1).values
    return rows.masked_fill(rows == slots, FREE)


def packed(stays: Tensor) -> Tensor:
    """Slots where `stays [batch, heads, slots]` is True, ascending, FREE at the end of shorter rows."""
    rows = torch.argsort(stays.to(torch.int8), dim=-1, descending=True, stable=True)
    rows = rows.masked_fill(~stays.gather(-1, rows), FREE)
    return rows[..., : int(stays.sum(dim=-1).max())]
