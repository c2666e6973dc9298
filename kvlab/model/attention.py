"""Attention over what a cache lets a query see (Vaswani et al., 2017; GQA: Ainslie et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.model.rotary import rotate
from kvlab.stores.base import Reader, Step
from kvlab.stores.buffer import gather_slots


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(q·k · scale) v, without ever repeating the KV heads in memory.

    q: `[batch, heads, tokens, head_dim]`; keys, values: `[batch, kv_heads, slots, head_dim]`;
    mask: bool `[batch, 1 or kv_heads, tokens, slots]`, True where a query may look; bias: `[batch, 1 or
    kv_heads, slots]`, added to the scores. Returns `[batch, heads, tokens, head_dim]`.
    """
    batch, heads, tokens, dim = q.shape
    kv_heads = keys.shape[1]
    if bias is not None:
        mask = bias.unsqueeze(2) if mask is None else torch.where(mask, bias.unsqueeze(2), float("-inf"))
        mask = mask.to(q.dtype)
    if tokens == 1 and heads != kv_heads:
        # The query heads of one KV head become rows of one small matrix: its keys are read once.
        q = q.view(batch, kv_heads, heads // kv_heads, dim)
        return F.scaled_dot_product_attention(q, keys, values, mask, scale=scale).view(batch, heads, 1, dim)
    if mask is not None and mask.shape[1] not in (1, heads):
        mask = mask.repeat_interleave(heads // kv_heads, dim=1)
    return F.scaled_dot_product_attention(
        q, keys, values, mask, is_causal=causal, scale=scale, enable_gqa=heads != kv_heads
    )


def probabilities(
    q: Tensor, keys: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None = None
) -> Tensor:
    """The attention map itself, `[batch, heads, tokens, slots]`; shapes and masks as in `attend`."""
    groups = q.shape[1] // keys.shape[1]
    scores = q @ keys.repeat_interleave(groups, dim=1).transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + _per_head(bias, q.shape[1]).unsqueeze(2)
    if mask is not None:
        scores = scores.masked_fill(~_per_head(mask, q.shape[1]), float("-inf"))
    return scores.softmax(dim=-1)


def _per_head(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def received(
    q: Tensor,
    keys: Tensor,
    mask: Tensor,
    scale: float,
    real: Tensor,
    bias: Tensor | None = None,
    block: int = 128,
) -> Tensor:
    """Attention that each entry receives, summed over queries and the heads of its group.

    `[batch, kv_heads, slots]`; computed `block` queries at a time, so that no whole map is held. `real`
    is `[batch, tokens]`, False for padding queries, which give nothing.
    """
    batch, kv_heads, slots, _ = keys.shape
    total = q.new_zeros(batch, kv_heads, slots)
    for start in range(0, q.shape[2], block):
        rows = slice(start, start + block)
        p = probabilities(q[:, :, rows], keys, mask[:, :, rows], scale, bias) * real[:, None, rows, None]
        total += p.reshape(batch, kv_heads, -1, slots).sum(dim=2)
    return total


def may_see(queries: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """The mask, by position: causal, within the window, and never a free slot.

    queries: `[batch, tokens]`; positions: `[batch, 1 or kv_heads, slots]`; returns bool `[batch, 1 or
    kv_heads, tokens, slots]`. A padding query (position -1) sees everything, so that its softmax is
    finite; nobody reads what it computes.
    """
    q, k = queries[:, None, :, None], positions[:, :, None, :]
    seen = (k >= 0) & (k <= q)
    if window is not None:
        seen &= k > q - window
    return seen | (q < 0)


def implied(step: Step, window: int | None) -> Literal["all", "causal"] | None:
    """What needs no mask, because order alone says who sees whom; None: a mask is needed."""
    slots = step.shared(window).shape[-1]  # a full ring: every slot is in the window of a single token
    if not step.in_order or (window is not None and slots > window):
        return None
    if step.tokens == 1:
        return "all"
    # SDPA's is_causal is aligned top-left: right only where queries and keys are the same tokens.
    return "causal" if step.tokens == slots else None


@dataclass
class Rotated:
    """Keys that were stored plain, rotated when they are read."""

    plain: Reader
    cos: Tensor  # [batch, 1 or kv_heads, slots, head_dim]
    sin: Tensor

    def read(self) -> Tensor:
        return rotate(self.plain.read(), self.cos, self.sin)

    def exact(self) -> None:
        return None

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        x, read = self.plain.gather(rows)
        return rotate(x, gather_slots(self.cos, rows), gather_slots(self.sin, rows)), read

    def span(self, start: int, stop: int) -> Tensor:
        return rotate(self.plain.span(start, stop), self.cos[:, :, start:stop], self.sin[:, :, start:stop])

    @property
    def nbytes(self) -> int:
        return self.plain.nbytes
