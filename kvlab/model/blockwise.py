"""Attention of one token over packed entries, a block at a time: the layer is never decoded as a whole.

A softmax can be summed up in parts, if the largest score so far is remembered and what was added before is
scaled down when a larger one comes (Milakov & Gimelshein, 2018; FlashAttention, Dao et al., 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.stores.base import View


def attend_blocks(q: Tensor, view: View, mask: Tensor | None, scale: float, size: int) -> Tensor:
    """softmax(q·k · scale) v, decoding `size` entries at a time.

    q: `[batch, heads, 1, head_dim]`; mask: bool `[batch, 1 or kv_heads, 1, slots]`, True where the query may
    look. Returns `[batch, heads, 1, head_dim]`.
    """
    batch, heads, _, dim = q.shape
    slots = view.positions.shape[-1]
    least = torch.finfo(torch.float32).min  # not -inf: where nothing may be seen, the sums stay finite
    for start in range(0, slots, size):
        part = slice(start, min(start + size, slots))
        keys, values = view.span(part.start, part.stop)  # [batch, kv_heads, n, head_dim]
        if start == 0:
            q = (q * scale).view(batch, keys.shape[1], -1, dim)  # the heads of a group are rows
            wide = torch.promote_types(q.dtype, torch.float32)
            top = torch.full((*q.shape[:3], 1), least, dtype=wide, device=q.device)
            total, out = torch.zeros_like(top), torch.zeros(q.shape, dtype=wide, device=q.device)
        scores = (q @ keys.transpose(-1, -2)).to(wide)  # [batch, kv_heads, heads of the group, n]
        if view.bias is not None:
            scores = scores + view.bias[:, :, None, part]
        if mask is not None:
            scores = scores.masked_fill(~mask[..., part], least)
        higher = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
        weight, fade = (scores - higher).exp(), (top - higher).exp()
        total = total * fade + weight.sum(dim=-1, keepdim=True)
        out = out * fade + (weight.to(values.dtype) @ values).to(wide)
        top = higher
    return (out / total).to(q.dtype).view(batch, heads, 1, dim)
