"""What a theory says was written into the cache: tokens, positions, and who saw whom.

A misuse of positions, masks or tokens is a full recompute of other tokens, at other positions, under
another mask. A theory lays out every call of a schedule on a sheet; one recompute of the sheet then gives
exactly the logits that the misuse would give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvlab.doctor.reference import Reference
from kvlab.doctor.schedule import Schedule


@dataclass
class Lines:
    """New entries of one call: what a theory answers."""

    tokens: Tensor  # [batch, new]
    positions: Tensor  # [batch, new]
    visible: Tensor  # [batch, new, past + new]


@dataclass
class Sheet:
    """Everything written so far. `real` is False at padding; `call` is the number of the writing call."""

    tokens: Tensor  # [batch, total]
    positions: Tensor  # [batch, total]
    real: Tensor  # [batch, total]
    call: list[int] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)  # `visible` of each call
    asked: list[int] = field(default_factory=list)  # entries whose logits the caller gets

    @property
    def total(self) -> int:
        return self.tokens.shape[1]

    @property
    def calls(self) -> int:
        return self.call[-1] + 1 if self.call else 0

    @property
    def seen(self) -> Tensor:
        """Real tokens so far, `[batch, 1]`."""
        return self.real.sum(dim=1, keepdim=True)

    def first_call(self) -> int:
        """How many entries the first call wrote."""
        return sum(1 for number in self.call if number == self.call[0])

    def add(self, lines: Lines, real: Tensor) -> None:
        new, number = lines.tokens.shape[1], self.calls
        self.asked += range(self.total + new - real.shape[1], self.total + new)
        if new > real.shape[1]:  # the theory fed more than the caller passed; all of that was real
            more = torch.ones(len(real), new - real.shape[1], dtype=torch.bool)
            real = torch.cat((more, real), dim=1)
        self.tokens = torch.cat((self.tokens, lines.tokens), dim=1)
        self.positions = torch.cat((self.positions, lines.positions), dim=1)
        self.real = torch.cat((self.real, real), dim=1)
        self.rows.append(lines.visible)
        self.call += [number] * new

    def visible(self) -> Tensor:
        """`[batch, total, total]`."""
        return torch.cat([torch.nn.functional.pad(v, (0, self.total - v.shape[2])) for v in self.rows], 1)


Lay = Callable[[Sheet, Tensor, Tensor], Lines]  # (sheet, tokens [batch, new], real [batch, new])


def empty(batch: int) -> Sheet:
    none = torch.zeros(batch, 0, dtype=torch.int64)
    return Sheet(none, none, none.bool())


def laid_out(lay: Lay, schedule: Schedule) -> Sheet:
    """All that a theory says the calls of a schedule wrote."""
    sheet = empty(len(schedule.tokens))
    for tokens, mask in schedule.parts():
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        sheet.add(lay(sheet, tokens, real), real)
    return sheet


def simulate(reference: Reference, lay: Lay, schedule: Schedule) -> Tensor:
    """Logits `[batch, total, vocab]` that the schedule would give if the theory were true."""
    sheet = laid_out(lay, schedule)
    visible = sheet.visible()
    # Nobody reads what padding computes, but its softmax must be finite.
    visible |= torch.diag_embed(~sheet.real)
    return reference.at(sheet.tokens, sheet.positions, visible)[:, sheet.asked]


# --- what most theories are made of ---


def count(sheet: Sheet, real: Tensor) -> Tensor:
    """The right positions: real tokens are counted, padding is not."""
    return (sheet.seen + real.long().cumsum(1) - 1).clamp(min=0)


def slots(sheet: Sheet, new: int, batch: int) -> Tensor:
    """Positions that are slot numbers, padding included."""
    return torch.arange(sheet.total, sheet.total + new).expand(batch, new)


def causal(sheet: Sheet, real: Tensor) -> Tensor:
    """The right mask: everything real up to and with the query."""
    new = real.shape[1]
    everything = torch.cat((sheet.real, real), dim=1)[:, None, :]
    order = torch.ones(new, sheet.total + new, dtype=torch.bool).tril(sheet.total)
    return everything & order


def right(sheet: Sheet, tokens: Tensor, real: Tensor) -> Lines:
    return Lines(tokens, count(sheet, real), causal(sheet, real))
