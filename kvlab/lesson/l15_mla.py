"""Lesson 15: one latent for all heads. On real entries after the fact, and as DeepSeek-V2 was built."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kvlab.measure.outline import CachedLayer, Outline, outline
from kvlab.measure.plan import plan
from kvlab.model.mla import MLAConfig
from kvlab.model.rotary import angles, rotate

from .l14 import Seen
from .l15 import Basis

DEEPSEEK_V2 = MLAConfig(hidden=5120, heads=128, head_dim=128, latent=512, rotary=64)
DEEPSEEK_V2_LAYERS = 60  # section 3.1.2 of the paper
DEEPSEEK_67B = (95, 8, 128)  # layers, KV heads, head_dim of the model that the paper compares with
WAYS = ("each head alone", "heads together", "keys and values together")


# --- a latent of real entries -----------------------------------------------------------------------------


def together(taught: Seen, page: Seen, way: str) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers a token and layer, and the error of keys (before rotary) and of values, at every rank.

    Bases are learned from `taught`. Each head alone: one basis a head and stream, all of the same rank. Heads
    together: one a stream. Keys and values together: one in all.
    """
    if way == WAYS[0]:
        found = [Basis.of(a).error(b) for a, b in _streams(taught, page)]
        ranks = torch.arange(len(found[0]))
        return 2 * page.plain.shape[1] * ranks, found[0], found[1]
    streams = [(_joined(a), _joined(b)) for a, b in _streams(taught, page)]
    if way == WAYS[1]:
        found = [Basis.of(a).error(b) for a, b in streams]
        return 2 * torch.arange(len(found[0])), found[0], found[1]
    learn, x = (torch.cat(parts, -1) for parts in zip(*streams, strict=True))
    keys, values = _apart(Basis.of(learn), x)
    return torch.arange(len(keys)), keys, values


def _streams(taught: Seen, page: Seen) -> list[tuple[Tensor, Tensor]]:
    return [(taught.plain, page.plain), (taught.values, page.values)]


def _joined(x: Tensor) -> Tensor:
    """`[layers, heads, tokens, dim]` -> `[layers, 1, tokens, heads * dim]`."""
    return x.transpose(1, 2).flatten(2).unsqueeze(1)


def _apart(basis: Basis, x: Tensor) -> tuple[Tensor, Tensor]:
    """Error of the first and of the second half of the numbers, at every rank of one basis for both.

    From products alone: the squares of d - sum of the first r directions, of one half, are those of d, minus
    twice what each direction takes away, plus what the directions have in common in that half.
    """
    d, b = x.double() - basis.mean.unsqueeze(-2), basis.directions
    code, half = d @ b, x.shape[-1] // 2
    common, found = code.mT @ code, []
    for part in (slice(None, half), slice(half, None)):
        taken = ((d[..., part] @ b[..., part, :]) * code).sum((0, 1, 2)).cumsum(0)
        shared = (common * (b[..., part, :].mT @ b[..., part, :])).sum((0, 1)).cumsum(0).cumsum(1).diagonal()
        left = d[..., part].square().sum() - torch.cat((taken.new_zeros(1), 2 * taken - shared))
        found.append((left.clamp(min=0) / x[..., part].double().square().sum()).sqrt())
    return found[0], found[1]


def at(numbers: Tensor, errors: Tensor, budget: int) -> float:
    """The error at the most numbers a token that fit."""
    return float(errors[int((numbers <= budget).nonzero().max())])


# --- as it was built --------------------------------------------------------------------------------------


def turn(x: Tensor, positions: Tensor | int, theta: float = 1e4) -> Tensor:
    """Rotary embedding of `x [..., tokens, dim]` at positions `[tokens]`, or at one for all."""
    dim = x.shape[-1]
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    where = torch.as_tensor(positions).reshape(-1)
    cos, sin = angles(where, frequencies, x.dtype)
    return rotate(x, cos, sin)


def cache_of(name: str, attention: str, numbers: int, layers: int) -> Outline:
    """An outline for `kvlab.plan` whose cache takes so many numbers a token and layer; its weights are
    another model's, so plan nothing but the cache with it."""
    return replace(
        outline("deepseek-v3"), name=name, attention=attention, layers=(CachedLayer(numbers),) * layers
    )


def kinds(c: MLAConfig = DEEPSEEK_V2, layers: int = DEEPSEEK_V2_LAYERS) -> dict[str, Outline]:
    """DeepSeek-V2's sizes with four kinds of attention: only what is cached differs."""
    numbers = {
        f"MHA, {c.heads} KV heads": ("MHA", 2 * c.heads * c.head_dim),
        "GQA, 8 KV heads": ("GQA", 2 * 8 * c.head_dim),
        f"MLA, latent {c.latent} + {c.rotary}": ("MLA", c.cached_numbers()),
        "MQA, 1 KV head": ("MQA", 2 * c.head_dim),
    }
    return {name: cache_of(name, kind, n, layers) for name, (kind, n) in numbers.items()}


def published() -> dict[str, float]:
    """Bytes a token of DeepSeek 67B, and of DeepSeek-V2 in 16 bits and in the 6 it is served with."""
    layers, heads, dim = DEEPSEEK_67B
    old = cache_of("deepseek-67b", "GQA", 2 * heads * dim, layers)
    new = cache_of("deepseek-v2", "MLA", DEEPSEEK_V2.cached_numbers(), DEEPSEEK_V2_LAYERS)
    return {
        "DeepSeek 67B, 16 bits": plan(old, tokens=1).cache_bytes,
        "DeepSeek-V2, 16 bits": plan(new, tokens=1).cache_bytes,
        "DeepSeek-V2, 6 bits": plan(new, tokens=1, bits=6).cache_bytes,
    }


def multiplications(c: MLAConfig = DEEPSEEK_V2) -> dict[str, int]:
    """For one query head and one cached token of a step: scores and mix."""
    pair = c.head_dim + c.rotary + c.head_dim
    return {
        "keys and values cached": pair,
        "made anew from the latent": pair + 2 * c.head_dim * c.latent,
        "absorbed": c.latent + c.rotary + c.latent,
    }
