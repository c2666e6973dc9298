"""Attention of one query over chosen pages of a cache, read where they lie (Quest: Tang et al., 2024)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kvlab.kernels.splits import combined, partials, split_count

BLOCK = 64  # slots that a program reads at a time


@triton.jit
def _pages(
    q, keys, values, pages, rows, visible, parts, tops, sums, scale,
    batch_stride, head_stride, visible_batch, visible_head, slots, count, singles, per_split,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, G_BLOCK: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)  # row: a sequence and one of its KV heads
    batch, head = row // KV_HEADS, row % KV_HEADS
    g, d, i = tl.arange(0, G_BLOCK), tl.arange(0, D), tl.arange(0, BLOCK)
    queries = tl.load(q + (row * GROUP + g)[:, None] * D + d, mask=(g < GROUP)[:, None], other=0.0)
    start = batch * batch_stride + head * head_stride  # where this head's entries begin

    top = tl.full([G_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([G_BLOCK], tl.float32)
    mixed = tl.zeros([G_BLOCK, D], tl.float32)
    whole = count * PAGE  # slots of the chosen pages; the single ones come behind them
    for first in range(split * per_split, tl.minimum((split + 1) * per_split, whole + singles), BLOCK):
        wanted = first + i  # the n-th slot that was chosen
        page = tl.load(pages + row * count + wanted // PAGE, mask=wanted < whole, other=0)
        alone = (wanted >= whole) & (wanted < whole + singles)
        single = tl.load(rows + row * singles + wanted - whole, mask=alone, other=0)
        slot = tl.where(alone, single.to(tl.int64), page.to(tl.int64) * PAGE + wanted % PAGE)
        inside = (wanted < whole + singles) & (slot < slots)  # the last page may be cut short
        at = batch * visible_batch + head * visible_head + slot
        inside &= tl.load(visible + at, mask=inside, other=0) != 0
        at = start + slot[:, None] * D + d
        k = tl.load(keys + at, mask=inside[:, None], other=0.0)  # [BLOCK, D]
        scores = tl.dot(queries, tl.trans(k), input_precision="ieee").to(tl.float32) * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        safe = tl.maximum(higher, -1e30)  # nothing visible yet: exp(-inf - -inf) would be NaN
        p = tl.exp(scores - safe[:, None])
        shrink = tl.exp(tl.maximum(top, -1e30) - safe)
        v = tl.load(values + at, mask=inside[:, None], other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee").to(tl.float32)
        total = total * shrink + tl.sum(p, axis=1)
        top = higher
    place = (row * GROUP + g) * SPLITS + split
    tl.store(parts + place[:, None] * D + d, mixed, mask=(g < GROUP)[:, None])
    tl.store(tops + place, top, mask=g < GROUP)
    tl.store(sums + place, total, mask=g < GROUP)


def attend_pages(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page_size: int, rows: Tensor,
    visible: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """softmax(q·k · scale) v over the slots of `pages` and those of `rows`; nothing else is read.

    q: `[batch, heads, 1, head_dim]`; keys, values: `[batch, kv_heads, slots, head_dim]`, each head's slots
    one after the other; pages: `[batch, kv_heads, n]`, page p is the slots from p * page_size on; rows:
    `[batch, 1 or kv_heads, m]` single slots outside of them; visible: bool `[batch, 1 or kv_heads, slots]`.
    Returns `[batch, heads, 1, head_dim]`, zeros where nothing is visible.

    Raises:
        ValueError: a head_dim that is no power of two, or slots that do not lie in a row.
    """
    batch, heads, _, dim = q.shape
    kv_heads, slots = keys.shape[1], keys.shape[2]
    if dim & (dim - 1):
        raise ValueError(f"the kernel takes a head_dim that is a power of two, not {dim}.")
    if not in_rows(keys, values):
        raise ValueError("the kernel takes keys and values whose slots lie in a row; call .contiguous().")
    group, count, singles = heads // kv_heads, pages.shape[2], rows.shape[2]
    blocks = triton.cdiv(count * page_size + singles, BLOCK)
    splits = split_count(batch * kv_heads, blocks)
    per_split = triton.cdiv(blocks, splits) * BLOCK
    parts, tops, sums = partials(batch * heads, splits, dim, q.device)
    seen = visible.expand(-1, kv_heads, -1)
    single = rows.expand(batch, kv_heads, -1).to(torch.int32).contiguous()
    _pages[(batch * kv_heads, splits)](
        q.contiguous(), keys, values, pages.to(torch.int32).contiguous(), single, seen.view(torch.uint8),
        parts, tops, sums, scale, keys.stride(0), keys.stride(1), seen.stride(0), seen.stride(1),
        slots, count, singles, per_split,
        kv_heads, group, max(16, triton.next_power_of_2(group)), dim, page_size, BLOCK, splits,
    )  # fmt: skip
    return combined(parts, tops, sums, q).view(batch, heads, 1, dim)


def in_rows(keys: Tensor, values: Tensor) -> bool:
    """Whether each head's slots lie one after the other, in keys and values alike."""
    return keys.stride()[2:] == (keys.shape[3], 1) and values.stride() == keys.stride()


def attend_pages_reference(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page_size: int, rows: Tensor,
    visible: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """The same in plain PyTorch, by a mask over all slots."""
    kv_heads = keys.shape[1]
    slots = torch.arange(keys.shape[2], device=q.device)
    chosen = (pages.unsqueeze(-1) == slots // page_size).any(dim=2)  # [batch, kv_heads, slots]
    chosen = (chosen | (rows.unsqueeze(-1) == slots).any(dim=2)) & visible
    grouped = q.view(len(q), kv_heads, -1, q.shape[3])
    scores = (grouped @ keys.transpose(-1, -2)).float() * scale
    p = scores.masked_fill(~chosen.unsqueeze(2), float("-inf")).softmax(dim=-1).nan_to_num()
    return (p.to(values.dtype) @ values).view(q.shape)
