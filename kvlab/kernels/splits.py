"""Putting together what several programs computed of one softmax (Flash-Decoding: Dao et al., 2023).

With one query per head there are too few heads to fill a GPU, so the slots of a head are split among
programs. Each keeps a running softmax of its own slots: the largest score m, the sum l of exp(score - m),
and the values weighted by exp(score - m). Those are enough to make the softmax over all slots.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ENOUGH_PROGRAMS = 264  # two for each multiprocessor of a large GPU


@triton.jit
def combine(parts, tops, sums, out, SPLITS: tl.constexpr, D: tl.constexpr, S_BLOCK: tl.constexpr):
    """out[row] = sum over splits of parts * exp(top - largest top), divided by the same sum of `sums`."""
    row = tl.program_id(0).to(tl.int64)
    split, d = tl.arange(0, S_BLOCK), tl.arange(0, D)
    real = split < SPLITS
    top = tl.load(tops + row * SPLITS + split, mask=real, other=float("-inf"))  # [splits]
    weight = tl.where(top > float("-inf"), tl.exp(top - tl.maximum(tl.max(top, axis=0), -1e30)), 0.0)
    total = tl.sum(weight * tl.load(sums + row * SPLITS + split, mask=real, other=0.0), axis=0)
    part = tl.load(parts + (row * SPLITS + split)[:, None] * D + d, mask=real[:, None], other=0.0)
    mixed = tl.sum(part * weight[:, None], axis=0) / tl.where(total > 0, total, 1.0)  # nothing visible: 0
    tl.store(out + row * D + d, mixed.to(out.dtype.element_ty))


def combined(parts: Tensor, tops: Tensor, sums: Tensor, like: Tensor) -> Tensor:
    """`parts [rows, splits, dim]`, `tops` and `sums [rows, splits]` -> `[rows, dim]` in `like`'s dtype."""
    rows, splits, dim = parts.shape
    out = like.new_empty(rows, dim)
    combine[(rows,)](parts, tops, sums, out, splits, dim, triton.next_power_of_2(splits))
    return out


def partials(rows: int, splits: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what the programs hand over, float32: parts, tops, sums as in `combined`."""
    parts = torch.empty(rows, splits, dim, dtype=torch.float32, device=device)
    tops = torch.empty(rows, splits, dtype=torch.float32, device=device)
    return parts, tops, torch.empty_like(tops)


def split_count(programs: int, blocks: int) -> int:
    """Into how many parts the slots of a head are split: enough to fill the GPU, at least one block each."""
    return max(1, min(blocks, triton.cdiv(ENOUGH_PROGRAMS, programs)))
