"""Rotary position embeddings: RoFormer (Su et al., 2021), in the half-split layout of Llama and Gemma."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvlab.model.config import Config, LayerType, RopeScaling


def inverse_frequencies(
    config: Config, layer_type: LayerType = "full", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Radians per position of each rotated pair, `[head_dim / 2]`."""
    theta, scaling = config.rope_theta, config.rope_scaling
    if layer_type == "sliding" and config.rope_local_theta is not None:
        theta, scaling = config.rope_local_theta, None  # Gemma 3 stretches its full layers only
    pairs = torch.arange(0, config.head_dim, 2, dtype=dtype) / config.head_dim
    frequencies = 1.0 / theta**pairs
    return frequencies if scaling is None else _stretch(frequencies, scaling)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # Llama 3.1: slow pairs are slowed further, fast ones kept, those between blended.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine for `positions [..., tokens]`, each `[..., tokens, head_dim]`.

    Both halves of a head turn by the same angles; the sine of the first half is negative, as a rotation
    of the pair (a, b) to (a cos - b sin, b cos + a sin) has it.
    """
    turn = positions.unsqueeze(-1).to(frequencies.dtype) * frequencies
    cos, sin = turn.cos(), turn.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim/2) of `x [batch, heads, tokens, head_dim]` by its angle.

    `cos` and `sin`, of `angles`, are `[batch, 1 or heads, tokens, head_dim]`.
    """
    partner = x.roll(x.shape[-1] // 2, dims=-1)  # number i beside its other half of the pair
    return torch.addcmul(x * cos, partner, sin)
