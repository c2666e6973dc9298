"""Attention of single tokens over what a selection picks: gather those entries, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from kvlab.model import fused
from kvlab.model.attention import attend, implied, may_see
from kvlab.selection.base import Pick, Selection
from kvlab.stores.base import Reader, Step, View
from kvlab.stores.buffer import gather_pages, gather_slots

T = TypeVar("T")  # what chooses for a run of heads: a selection, or a fixed pattern


@dataclass(frozen=True)
class Question:
    """Queries over the entries of a layer, all heads or a run of them."""

    q: Tensor  # [batch, heads, tokens, head_dim]
    view: View  # `view.heads` KV heads
    window: int | None
    scale: float
    step: Step
    look: bool = False  # whether to tell which entries were read
    kernels: bool | None = None  # as the cache was told

    def of_heads(self, heads: slice) -> Question:
        """The same, for some of the KV heads."""
        group = self.q.shape[1] // self.view.heads
        q = self.q[:, heads.start * group : heads.stop * group]
        return replace(self, q=q, view=_of_heads(self.view, heads))

    def mask(self) -> Tensor:
        """What the queries may see, `[batch, 1 or kv_heads, tokens, slots]`."""
        return may_see(self.step.positions, self.view.positions, self.window)


@dataclass
class Read:
    """What attention over chosen entries gave, and what it read."""

    out: Tensor  # [batch, heads, tokens, head_dim]
    bytes_read: int  # of keys, values and whatever was read to choose
    entries: int  # keys gathered, over batch and KV heads
    seen: Tensor | None = None  # [batch, 1 or kv_heads, tokens, slots] which ones, where that was asked for
    by: str = ""  # what computed it, in a sentence


def attend_selected(selection: Selection, asked: Question) -> Read | None:
    """Attention of a single token over the entries that a selection picks; None: it picks all."""
    runs = selection.runs(asked.view.heads)
    if len(runs) == 1:
        return None if runs[0][1] is None else _of_run(runs[0][1], asked)
    return by_run(runs, asked, _of_run)


def by_run(
    runs: list[tuple[slice, T | None]], asked: Question, attend_run: Callable[[T, Question], Read | None]
) -> Read:
    """Every run of KV heads with what chooses for it, side by side; where nothing does, all is read."""
    parts = []
    for heads, chooser in runs:
        narrow = asked.of_heads(heads)
        part = None if chooser is None else attend_run(chooser, narrow)
        parts.append(part or _of_all(narrow))
    return _joined(parts, [heads.stop - heads.start for heads, _ in runs])


def _of_run(selection: Selection, asked: Question) -> Read | None:
    view = asked.view
    visible = _visible(asked)
    pick = selection.choose(asked.q, view, visible, asked.scale, asked.step)
    if pick is None:
        return None
    out, by = fused.attend_picked(asked.q, view, pick, visible, asked.scale, asked.kernels)
    read = _gathered(pick, asked) if out is None else _in_place(pick, asked, out)
    read.by = by
    if asked.look:
        read.seen = _seen(pick, view) & visible
    return read


def _gathered(pick: Pick, asked: Question) -> Read:
    """The entries of a pick are copied, then attended to."""
    view = asked.view
    keys, read_keys = fetch(view.keys, pick, view.heads)
    values, read_values = fetch(view.values, pick, view.heads)
    mask, bias = _mask(pick, asked, keys), None
    if view.bias is not None:
        bias = gather_slots(view.bias, pick.slots().clamp(min=0))
    out = attend(asked.q, keys, values, mask, asked.scale, bias=bias)
    return Read(out, read_keys + read_values + pick.bytes_scored, keys.shape[:3].numel())


def _in_place(pick: Pick, asked: Question, out: Tensor) -> Read:
    """A kernel has read the entries of a pick where they lie: so many bytes as copying them would read."""
    assert pick.pages is not None
    each = pick.pages.shape[2] * pick.page + pick.rows.shape[2]  # entries of a head
    entries = len(asked.q) * asked.view.heads * each
    return Read(out, 2 * entries * out.shape[-1] * out.element_size() + pick.bytes_scored, entries)


def _visible(asked: Question) -> Tensor:
    """`[batch, 1 or kv_heads, 1, slots]`; worked out once where layers share their positions."""
    if asked.view.positions is not asked.step.ledger:
        return asked.mask()
    key = ("visible", asked.window)
    if key not in asked.step.plans:
        asked.step.plans[key] = asked.mask()
    return cast("Tensor", asked.step.plans[key])


def _mask(pick: Pick, asked: Question, keys: Tensor) -> Tensor | None:
    """Which of the gathered entries count, `[batch, 1 or kv_heads, 1 or group, n]`; None: all of them."""
    view, step = asked.view, asked.step
    shared = view.positions is step.ledger
    if shared and step.in_order and asked.window is None and not pick.gaps and pick.bias is None:
        return None
    slots = pick.slots()
    mask = may_see(step.positions, gather_slots(view.positions, slots.clamp(min=0)), asked.window)
    if pick.gaps:
        mask = mask & ((slots.unsqueeze(2) >= 0) | (step.positions[:, None, :, None] < 0))
    if pick.bias is not None:
        mask = torch.where(mask, pick.bias, float("-inf")).to(keys.dtype)
    return mask


def _of_all(asked: Question) -> Read:
    """Heads that read everything, beside others that do not."""
    view, step = asked.view, asked.step
    keys, values = view.read()
    known = implied(step, asked.window) if view.positions is step.shared(asked.window) else None
    mask = asked.mask() if known is None else None
    out = attend(asked.q, keys, values, mask, asked.scale, known == "causal", view.bias)
    seen = asked.mask() if asked.look else None
    by = fused.plain("some heads read everything")
    return Read(out, view.keys.nbytes + view.values.nbytes, keys.shape[:3].numel(), seen, by)


def fetch(reader: Reader, pick: Pick, kv_heads: int) -> tuple[Tensor, int]:
    """What a pick names, `[batch, kv_heads, n, head_dim]`, and the bytes that this read."""
    lying = reader.exact()
    if lying is None:
        return reader.gather(pick.slots().clamp(min=0).expand(-1, kv_heads, -1))
    rows = pick.rows.clamp(min=0) if pick.gaps else pick.rows
    x = gather_pages(lying, pick.pages, pick.page, rows)
    return x, x.nbytes


def _seen(pick: Pick, view: View) -> Tensor:
    """`[batch, 1 or kv_heads, 1, slots]`, True at the slots of a pick."""
    slots = pick.slots()
    seen = torch.zeros(*slots.shape[:2], view.positions.shape[-1] + 1, dtype=torch.bool, device=slots.device)
    seen.scatter_(2, slots.masked_fill(slots < 0, view.positions.shape[-1]), True)
    return seen[:, :, None, :-1].expand(-1, view.heads, -1, -1)


def _joined(parts: list[Read], heads: list[int]) -> Read:
    """Runs of KV heads, side by side again."""
    widths = zip(parts, heads, strict=True)
    seen = [part.seen.expand(-1, n, -1, -1) for part, n in widths if part.seen is not None]
    return Read(
        torch.cat([part.out for part in parts], dim=1),
        sum(part.bytes_read for part in parts),
        sum(part.entries for part in parts),
        torch.cat(seen, dim=1) if seen else None,
        "; ".join(dict.fromkeys(part.by for part in parts)),
    )


@dataclass
class OfHeads:
    """A run of KV heads of a stream."""

    of: Reader
    heads: slice
    all_heads: int

    def read(self) -> Tensor:
        return self.of.read()[:, self.heads]

    def exact(self) -> Tensor | None:
        lying = self.of.exact()
        return None if lying is None else lying[:, self.heads]

    def span(self, start: int, stop: int) -> Tensor:
        return self.of.span(start, stop)[:, self.heads]

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """Through a codec the same rows of all heads are decoded, and counted so."""
        wide = rows[:, :1].expand(-1, self.all_heads, -1).clone()
        wide[:, self.heads] = rows
        x, read = self.of.gather(wide)
        return x[:, self.heads], read

    @property
    def nbytes(self) -> int:
        return self.of.nbytes * (self.heads.stop - self.heads.start) // self.all_heads


def _of_heads(view: View, heads: slice) -> View:
    """The same entries, for some of the KV heads."""
    keys, values = OfHeads(view.keys, heads, view.heads), OfHeads(view.values, heads, view.heads)
    positions = view.positions if view.positions.shape[1] == 1 else view.positions[:, heads]
    bias = view.bias if view.bias is None or view.bias.shape[1] == 1 else view.bias[:, heads]
    narrow = View(keys, values, positions, bias=bias)
    narrow.heads = heads.stop - heads.start
    return narrow
