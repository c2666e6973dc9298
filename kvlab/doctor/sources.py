"""Where an entry comes from: which row's which token, at which position, gives just this key and value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.doctor.contents import causal
from kvlab.doctor.reference import Reference

MOST = 48  # tokens of a row whose entries are looked for at other positions


@dataclass(frozen=True)
class Source:
    """Row and column of the ids, by how many positions it is off, and its value's row if that is another."""

    row: int
    column: int
    off: int = 0
    value_row: int | None = None


Found = list[list[Source | None]]  # for each row, for each slot; None: of none of these ids


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Largest |difference| of each entry of a with each of b: `[kv_heads, n, dim]`, `[kv_heads, m, dim]`
    -> `[n, m]`.
    """
    wide = torch.promote_types(a.dtype, torch.float32)  # cdist takes no bfloat16
    x, y = (one.transpose(0, 1).flatten(1).to(wide) for one in (a, b))
    return torch.cdist(x, y, p=float("inf"))


def sources(
    held: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor], claimed: Tensor, tolerance: tuple[float, float]
) -> Found:
    """Entries `[rows, kv_heads, slots, dim]` that some token of the ids gives at its own position.

    given: the recomputed ones, `[rows, kv_heads, tokens, dim]`; claimed: `[rows, slots]` columns, which win
    where several tokens would do; tolerance: of keys and of values.
    """
    rows = len(held[0])
    found: Found = []
    for row in range(rows):
        near = [
            torch.stack([apart(x[row], y[other]) for other in range(rows)]) <= limit  # [rows, slots, tokens]
            for x, y, limit in zip(held, given, tolerance, strict=True)
        ]
        slots = range(claimed.shape[1])
        found.append([_one(near[0][:, i], near[1][:, i], row, int(claimed[row, i])) for i in slots])
    return found


def _one(keys: Tensor, values: Tensor, row: int, column: int) -> Source | None:
    """keys, values: `[rows, tokens]`, whether one slot's is that one's."""
    both = keys & values
    if both.any():
        return Source(*_preferred(both, row, column))
    if 0 <= column < keys.shape[1] and keys[:, column].any() and values[:, column].any():
        of_key, of_value = (int(x[:, column].nonzero()[0]) for x in (keys, values))
        return Source(of_key, column, 0, of_value)
    return None


def _preferred(good: Tensor, row: int, column: int) -> tuple[int, int]:
    """The claimed place, else one of the same row, the nearest; else any."""
    if column < good.shape[1] and column >= 0 and good[row, column]:
        return row, column
    of_row = good[row].nonzero().flatten()
    if len(of_row):
        return row, int(of_row[(of_row - column).abs().argmin()])
    other, at = good.nonzero()[0].tolist()
    if 0 <= column < good.shape[1] and good[:, column].any():
        return int(good[:, column].nonzero()[0]), column
    return other, at


def moved(
    reference: Reference,
    row: int,
    ids: Tensor,
    held: tuple[Tensor, Tensor],
    claimed: list[int],
    tolerance: tuple[float, float],
) -> dict[int, Source]:
    """Slots of a row whose first layer is that of a token of the ids at another position.

    ids: `[tokens]`; held: first layer, `[kv_heads, slots, dim]`; claimed: the column of each slot. Only the
    first layer tells: what it holds depends on token and position, and on nothing before it.
    """
    ids = ids[:MOST]
    total = len(ids)
    offs = [off for off in range(-total + 1, total + 1) if off]
    at = (torch.arange(total) + torch.tensor(offs)[:, None]).clamp(min=0)  # [offs, tokens]
    rows = ids.expand(len(offs), -1)
    keys, values = reference.entries(rows, at, causal(torch.ones_like(rows, dtype=torch.bool)))[0]
    found: dict[int, tuple[int, Source]] = {}
    for i, off in enumerate(offs):
        good = (apart(held[0], keys[i]) <= tolerance[0]) & (apart(held[1], values[i]) <= tolerance[1])
        for slot, column in good.nonzero().tolist():
            cost = abs(off) + (0 if column == claimed[slot] else 2 * total)  # the token that it claims first
            if column + off >= 0 and (slot not in found or cost < found[slot][0]):
                found[slot] = cost, Source(row, column, off)
    return {slot: source for slot, (_, source) in found.items()}
