"""A prompt under a fixed pattern: block-sparse attention that leaves out what nobody reads.

Queries are taken a block at a time; the keys that any of them reads are gathered, and the block attends to
them under the pattern's mask. Blocks that are not read cost nothing: no scores, no memory traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from kvlab.model import flex, fused
from kvlab.model.attention import attend
from kvlab.model.selected import Question, Read, by_run
from kvlab.selection.base import Selection
from kvlab.selection.pattern import Pattern


@dataclass
class Tile:
    """A block of queries and the slots that any of them reads."""

    queries: Tensor  # [n] which of the new tokens
    slots: Tensor  # [m]
    mask: Tensor  # [n, m]


def tiles(pattern: Pattern, asked: Tensor, held: Tensor, window: int | None = None) -> list[Tile]:
    """Cut a prompt: queries at positions `asked [tokens]` over slots that hold positions `held [slots]`.

    Padding, and slots that hold nothing (both -1), are in no tile.
    """
    queries = (asked >= 0).nonzero().squeeze(-1)
    order = pattern.order(asked[queries])
    if order is not None:
        queries = queries[order.argsort(stable=True)]
    found = []
    for block in queries.split(pattern.block):
        at = asked[block].unsqueeze(-1)  # [n, 1]
        mask = pattern.allows(at, held) & (held <= at) & (held >= 0)
        if window is not None:
            mask &= held > at - window
        slots = mask.any(dim=0).nonzero().squeeze(-1)
        found.append(Tile(block, slots, mask.index_select(1, slots)))
    return found


def attend_prompt(selection: Selection, asked: Question) -> Read | None:
    """Attention of several tokens under a selection's fixed patterns; None: it has none for this layer."""
    chosen = selection.runs(asked.view.heads)
    runs = [(heads, None if one is None else one.pattern()) for heads, one in chosen]
    if all(pattern is None for _, pattern in runs):
        return None
    return by_run(runs, asked, _tiled)


def _tiled(pattern: Pattern, asked: Question) -> Read:
    q, view, step = asked.q, asked.view, asked.step
    whole = view.positions is step.ledger and step.in_order and step.tokens == view.positions.shape[-1]
    if whole and not asked.look and view.bias is None and flex.runs(q):
        return _flexed(pattern, asked)
    keys, values = view.read()  # [batch, kv_heads, slots, head_dim]; not copied where nothing is encoded
    read = Read(q.new_zeros(q.shape), 0, 0, by=fused.plain("a block of the prompt's queries at a time"))
    if view.keys.exact() is None:
        read.bytes_read = view.keys.nbytes + view.values.nbytes  # decoding has read them all
    if asked.look:
        shape = *keys.shape[:2], q.shape[2], keys.shape[2]
        read.seen = torch.zeros(shape, dtype=torch.bool, device=q.device)
    group = q.shape[1] // keys.shape[1]
    for rows, heads, cut in _cuts(pattern, asked):
        asking = slice(heads.start * group, heads.stop * group)
        for tile in cut:
            k, v = (x[rows, heads].index_select(2, tile.slots) for x in (keys, values))
            bias = None if view.bias is None else _bias(view.bias, rows, heads)[..., tile.slots]
            block = q[rows, asking].index_select(2, tile.queries)
            out = attend(block, k, v, tile.mask[None, None], asked.scale, bias=bias)
            read.out[rows, asking].index_copy_(2, tile.queries, out)
            read.entries += k.shape[:3].numel()
            read.bytes_read += 2 * k.nbytes
            if read.seen is not None:
                read.seen[rows, heads][..., tile.queries[:, None], tile.slots] = tile.mask
    return read


def _bias(bias: Tensor, rows: slice, heads: slice) -> Tensor:
    """Of `bias [batch, 1 or kv_heads, slots]` these rows and KV heads."""
    return bias[rows] if bias.shape[1] == 1 else bias[rows, heads]


def _flexed(pattern: Pattern, asked: Question) -> Read:
    """The whole prompt at once, by FlexAttention; the layers share the blocks."""
    key, plans = ("blocks", id(pattern), asked.window), asked.step.plans
    if key not in plans:
        plans[key] = flex.blocks_of(pattern, asked.step.tokens, asked.window, asked.q.device)
    blocks = plans[key]
    keys, values = asked.view.read()
    entries = flex.entries_of(blocks) * keys.shape[:2].numel()
    read = 2 * entries * keys.shape[-1] * keys.element_size()
    out = flex.attend_flex(asked.q, keys, values, blocks, asked.scale)
    return Read(out, read, entries, by=flex.SERVED)


def _cuts(pattern: Pattern, asked: Question) -> Iterator[tuple[slice, slice, list[Tile]]]:
    """Rows of the batch, KV heads, and their tiles: one cut for all where all hold the same positions."""
    view, step, window, kv_heads = asked.view, asked.step, asked.window, asked.view.heads
    batch, private = len(view.positions), view.positions.shape[1]
    if step.in_order and private == 1 and view.positions is step.ledger:
        key = ("tiles", id(pattern), window)
        if key not in step.plans:  # the layers share it
            step.plans[key] = tiles(pattern, step.positions[0], view.positions[0, 0], window)
        yield slice(0, batch), slice(0, kv_heads), cast("list[Tile]", step.plans[key])
        return
    for row in range(batch):
        for head in range(private):
            heads = slice(0, kv_heads) if private == 1 else slice(head, head + 1)
            cut = tiles(pattern, step.positions[row], view.positions[row, head], window)
            yield slice(row, row + 1), heads, cut
