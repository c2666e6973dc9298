"""A prompt under a fixed pattern on CUDA: PyTorch's FlexAttention, compiled to one kernel.

FlexAttention (Dong et al., 2024) cuts the map into blocks of 128 × 128, leaves out those without any pair,
and masks only those that have some. The pattern itself is what is compiled into it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvlab.selection.pattern import Pattern

SERVED = "FlexAttention (compiled): blocks of the prompt that nobody reads are left out"
HEAD_DIMS = (16, 32, 64, 128, 256)  # that its kernels take


def runs(q: Tensor) -> bool:
    """Whether FlexAttention has a kernel for queries like `q [batch, heads, tokens, head_dim]`."""
    fits = q.is_cuda and q.shape[-1] in HEAD_DIMS and q.dtype != torch.float64
    return fits and importlib.util.find_spec("triton") is not None


@functools.cache
def _kernel() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def blocks_of(pattern: Pattern, tokens: int, window: int | None, device: torch.device) -> Any:
    """The block mask of a whole prompt, where token i is at position i."""
    from torch.nn.attention.flex_attention import create_block_mask

    def meets(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = pattern.allows(query, key) & (key <= query)
        return seen if window is None else seen & (key > query - window)

    return create_block_mask(meets, None, None, tokens, tokens, device=str(device))


def attend_flex(q: Tensor, keys: Tensor, values: Tensor, blocks: Any, scale: float) -> Tensor:
    """Attention over the blocks of a mask, `[batch, heads, tokens, head_dim]`.

    q: `[batch, heads, tokens, head_dim]`; keys, values: `[batch, kv_heads, tokens, head_dim]`. Without CUDA
    it computes the same in plain PyTorch, which is slow and only good for checking.
    """
    from torch.nn.attention.flex_attention import flex_attention

    attend: Any = _kernel() if q.is_cuda else flex_attention
    gqa = q.shape[1] != keys.shape[1]
    return attend(q, keys, values, block_mask=blocks, scale=scale, enable_gqa=gqa)


def entries_of(blocks: Any) -> int:
    """Keys that the blocks of queries read, in one head: those of every block that is not left out."""
    found = int(blocks.kv_num_blocks[0, 0].sum())
    if blocks.full_kv_num_blocks is not None:
        found += int(blocks.full_kv_num_blocks[0, 0].sum())
    return found * blocks.BLOCK_SIZE[1]
