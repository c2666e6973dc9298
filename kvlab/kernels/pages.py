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
    q, keys, values, pages, visible, parts, tops, sums, scale,
    batch_stride, head_stride, slots, count, per_split,
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
    for first in range(split * per_split, tl.minimum((split + 1) * per_split, count * PAGE), BLOCK):
        wanted = first + i  # the n-th slot of the chosen pages
        inside = wanted < count * PAGE
        page = tl.load(pages + row * count + wanted // PAGE, mask=inside, other=0)
        slot = page.to(tl.int64) * PAGE + wanted % PAGE
        inside &= slot < slots  # the last page may be cut short
        inside &= tl.load(visible + batch * slots + slot, mask=inside, other=0) != 0
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
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page_size: int, visible: Tensor, scale: float
) -> Tensor:
    """softmax(q·k · scale) v over the slots of `pages`; nothing else is read.

    q: `[batch, heads, 1, head_dim]`; keys, values: `[batch, kv_heads, slots, head_dim]`, each head's slots
    one after the other; pages: `[batch, kv_heads, n]`, page p is the slots from p * page_size on; visible:
    bool `[batch, slots]`. Returns `[batch, heads, 1, head_dim]`.

    Raises:
        ValueError: a head_dim or page size that is no power of two, or slots that do not lie in a row.
    """
    batch, heads, _, dim = q.shape
    kv_heads, slots = keys.shape[1], keys.shape[2]
    if dim & (dim - 1) or page_size & (page_size - 1):
        raise ValueError(f"the kernel takes powers of two, not head_dim {dim} and pages of {page_size}.")
    if keys.stride()[2:] != (dim, 1) or values.stride() != keys.stride():
        raise ValueError("the kernel takes keys and values whose slots lie in a row; call .contiguous().")
    rows, group, count = batch * kv_heads, heads // kv_heads, pages.shape[2]
    blocks = triton.cdiv(count * page_size, BLOCK)
    splits = split_count(rows, blocks)
    per_split = triton.cdiv(blocks, splits) * BLOCK
    parts, tops, sums = partials(batch * heads, splits, dim, q.device)
    _pages[(rows, splits)](
        q.contiguous(), keys, values, pages.to(torch.int32).contiguous(), visible.to(torch.uint8),
        parts, tops, sums, scale, keys.stride(0), keys.stride(1), slots, count, per_split,
        kv_heads, group, max(16, triton.next_power_of_2(group)), dim, page_size, BLOCK, splits,
    )  # fmt: skip
    return combined(parts, tops, sums, q).view(batch, heads, 1, dim)


def attend_pages_reference(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page_size: int, visible: Tensor, scale: float
) -> Tensor:
    """The same in plain PyTorch, by a mask over all slots."""
    batch, heads, _, dim = q.shape
    slot_pages = torch.arange(keys.shape[2], device=q.device) // page_size  # [slots]
    chosen = (pages.unsqueeze(-1) == slot_pages).any(dim=2) & visible[:, None]  # [batch, kv_heads, slots]
    grouped = q.view(batch, keys.shape[1], -1, dim)
    scores = (grouped @ keys.transpose(-1, -2)).float() * scale
    p = scores.masked_fill(~chosen.unsqueeze(2), float("-inf")).softmax(dim=-1)
    return (p.to(values.dtype) @ values).view(q.shape)
