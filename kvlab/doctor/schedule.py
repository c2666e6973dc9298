"""In which calls a text is passed: the doctor runs the same text in many ways and compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.subject import Subject


@dataclass(frozen=True)
class Schedule:
    """Tokens `[batch, total]`, cut into calls of `sizes`; `real` is False at padding, None: no padding."""

    tokens: Tensor
    sizes: tuple[int, ...]
    real: Tensor | None = None

    @property
    def total(self) -> int:
        return self.tokens.shape[1]

    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Tokens and mask of each call."""
        masks = [None] * len(self.sizes) if self.real is None else self.real.split(self.sizes, dim=1)
        return list(zip(self.tokens.split(self.sizes, dim=1), masks, strict=True))

    def cut(self, total: int) -> Schedule:
        """The same with only the first `total` tokens; the last call gets shorter."""
        sizes: list[int] = []
        for size in self.sizes:
            if sum(sizes) < total:
                sizes.append(min(size, total - sum(sizes)))
        return Schedule(
            self.tokens[:, :total], tuple(sizes), None if self.real is None else self.real[:, :total]
        )


@dataclass
class Run:
    """What came out: logits `[batch, tokens, vocab]`, the last state, and the error that ended it, if any."""

    schedule: Schedule
    logits: Tensor
    state: Any
    error: Exception | None = None


def text(vocab: int, length: int, seed: int, batch: int = 1) -> Tensor:
    """Token ids `[batch, length]`, neighbours always different, so that order matters."""
    generator = torch.Generator().manual_seed(seed)
    low = min(3, vocab // 2)  # ids 0 to 2 are often <pad>, <bos> and <eos>
    steps = torch.randint(1, vocab - low, (batch, length), generator=generator)
    return low + steps.cumsum(1) % (vocab - low)


def run(subject: Subject, schedule: Schedule, state: Any = None) -> Run:
    """Pass a text to a subject, call by call. An error of the first call is raised, a later one kept."""
    out: list[Tensor] = []
    for tokens, mask in schedule.parts():
        try:
            logits, state = subject.step(tokens, state) if mask is None else subject.step(tokens, state, mask)
        except NotImplementedError:
            raise
        except Exception as error:
            if not out:
                raise
            return Run(schedule.cut(sum(part.shape[1] for part in out)), torch.cat(out, 1), state, error)
        out.append(logits.detach())
    return Run(schedule, torch.cat(out, dim=1), state)


def truth(full: Any, schedule: Schedule) -> Tensor:
    """Full recompute of every row's real tokens, `[batch, total, vocab]`; zeros at padding."""
    if schedule.real is None:
        return full(schedule.tokens)
    rows = []
    for tokens, real in zip(schedule.tokens, schedule.real, strict=True):
        logits = full(tokens[real][None])[0]
        row = logits.new_zeros(len(tokens), logits.shape[-1])
        row[real] = logits
        rows.append(row)
    return torch.stack(rows)


def gaps(a: Tensor, b: Tensor, real: Tensor | None = None) -> Tensor:
    """Max |Δlogit| of every token, `[batch, tokens]`; not-a-number counts as infinitely wrong."""
    gap = (a - b).abs().amax(dim=-1).nan_to_num(nan=float("inf"))
    return gap if real is None else gap.masked_fill(~real, 0.0)


def singles(prefill: int, total: int) -> tuple[int, ...]:
    """One call of `prefill` tokens, then one token at a time."""
    return (prefill,) + (1,) * (total - prefill)


def pad_left(rows: Sequence[Tensor], filler: int) -> tuple[Tensor, Tensor]:
    """Texts `[n]` of different lengths as one batch, padded on the left, and where it is real."""
    longest = max(map(len, rows))
    tokens = torch.stack([torch.cat((row.new_full((longest - len(row),), filler), row)) for row in rows])
    real = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows])
    return tokens, real
