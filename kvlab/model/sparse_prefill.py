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

from kvlab.model import flex
from kvlab.model.attention import attend, implied, may_see
from kvlab.model.selected import Read, joined, of_heads
from kvlab.selection.base import Selection
from kvlab.selection.pattern import Pattern
from kvlab.stores.base import Step, View


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


def attend_prompt(
    selection: Selection,
    q: Tensor,
    view: View,
    window: int | None,
    scale: float,
    step: Step,
    kv_heads: int,
    look: bool = False,
) -> Read | None:
    """Attention of several tokens under a selection's fixed patterns; None: it has none for this layer.

    q: `[batch, heads, tokens, head_dim]`; look: whether to tell which entries each query read.
    """
    runs = [(heads, None if one is None else one.pattern()) for heads, one in selection.runs(kv_heads)]
    if all(pattern is None for _, pattern in runs):
        return None
    group, parts = q.shape[1] // kv_heads, []
    for heads, pattern in runs:
        narrow, rows = of_heads(view, heads), q[:, heads.start * group : heads.stop * group]
        if pattern is None:
            parts.append(_all(rows, narrow, window, scale, step, look))
        else:
            parts.append(_tiled(pattern, rows, narrow, window, scale, step, look))
    return joined(parts, [heads.stop - heads.start for heads, _ in runs])


def _all(q: Tensor, view: View, window: int | None, scale: float, step: Step, look: bool) -> Read:
    """Heads that read everything, beside others that do not."""
    keys, values = view.read()
    known = implied(step, window) if view.positions is step.shared(window) else None
    mask = may_see(step.positions, view.positions, window) if known is None else None
    out = attend(q, keys, values, mask, scale, known == "causal", view.bias)
    seen = may_see(step.positions, view.positions, window) if look else None
    return Read(out, view.keys.nbytes + view.values.nbytes, keys.shape[:3].numel(), seen)


def _tiled(
    pattern: Pattern, q: Tensor, view: View, window: int | None, scale: float, step: Step, look: bool
) -> Read:
    whole = view.positions is step.ledger and step.in_order and step.tokens == view.positions.shape[-1]
    if whole and not look and view.bias is None and flex.runs(q):
        return _flexed(pattern, q, view, window, scale, step)
    keys, values = view.read()  # [batch, kv_heads, slots, head_dim]; not copied where nothing is encoded
    read = Read(q.new_zeros(q.shape), 0, 0)
    if view.keys.exact() is None:
        read.bytes_read = view.keys.nbytes + view.values.nbytes  # decoding has read them all
    if look:
        read.seen = torch.zeros(*keys.shape[:2], *mask_shape(q, keys), dtype=torch.bool, device=q.device)
    group = q.shape[1] // keys.shape[1]
    for rows, heads, cut in _cuts(pattern, view, window, step, keys.shape[1]):
        asking = slice(heads.start * group, heads.stop * group)
        for tile in cut:
            k, v = (x[rows, heads].index_select(2, tile.slots) for x in (keys, values))
            bias = None if view.bias is None else view.bias[rows][..., tile.slots]
            block = q[rows, asking].index_select(2, tile.queries)
            out = attend(block, k, v, tile.mask[None, None], scale, bias=bias)
            read.out[rows, asking].index_copy_(2, tile.queries, out)
            read.entries += k.shape[:3].numel()
            read.bytes_read += 2 * k.numel() * k.element_size()
            if read.seen is not None:
                read.seen[rows, heads][..., tile.queries[:, None], tile.slots] = tile.mask
    return read


def _flexed(pattern: Pattern, q: Tensor, view: View, window: int | None, scale: float, step: Step) -> Read:
    """The whole prompt at once, by FlexAttention; the layers share the blocks."""
    key = ("blocks", id(pattern), window)
    if key not in step.plans:
        step.plans[key] = flex.blocks_of(pattern, step.tokens, window, q.device)
    blocks = step.plans[key]
    keys, values = view.read()
    entries = flex.entries_of(blocks) * keys.shape[:2].numel()
    read = 2 * entries * keys.shape[-1] * keys.element_size()
    return Read(flex.attend_flex(q, keys, values, blocks, scale), read, entries)


def mask_shape(q: Tensor, keys: Tensor) -> tuple[int, int]:
    """`(tokens, slots)`."""
    return q.shape[2], keys.shape[2]


def _cuts(
    pattern: Pattern, view: View, window: int | None, step: Step, kv_heads: int
) -> Iterator[tuple[slice, slice, list[Tile]]]:
    """Rows of the batch, KV heads, and their tiles: one cut for all where all hold the same positions."""
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
