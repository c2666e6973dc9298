"""01.2: one attention head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "01.2",
    "One attention head",
    function="head_output",
    stub="""
def head_output(q, k, v):
    # q, k, v: [tokens, head_dim] of one head -> [tokens, head_dim]
    ...
""",
    hint="Four lines: scores, mask, softmax, mix. Compare each with the cells above.",
)


@EXERCISE.inputs
def inputs(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    tokens, head_dim = draw.integer(3, 7), draw.one_of([4, 8, 16])
    return draw.normal(tokens, head_dim), draw.normal(tokens, head_dim), draw.normal(tokens, head_dim)


@EXERCISE.alternative
def alternative(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]


def scores(q: Tensor, k: Tensor, power: float = -0.5) -> Tensor:
    return q @ k.T * q.shape[1] ** power


def masked(x: Tensor, fill: float = float("-inf")) -> Tensor:
    return x.masked_fill(torch.ones_like(x, dtype=torch.bool).triu(1), fill)


@EXERCISE.mistake(
    "You left out the division by √head_dim: the scores are too far apart, the softmax too sharp."
)
def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(scores(q, k, 0)).softmax(-1) @ v


@EXERCISE.mistake("You divided by head_dim; divide by its square root.")
def scaled_by_dim(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(scores(q, k, -1)).softmax(-1) @ v


@EXERCISE.mistake("There is no mask: every token mixes in values of tokens that come after it.")
def unmasked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scores(q, k).softmax(-1) @ v


@EXERCISE.mistake("You masked after the softmax: the rows no longer add up to 1. Mask the scores before it.")
def masked_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(scores(q, k).softmax(-1), 0.0) @ v


@EXERCISE.mistake(
    "You masked with 0, but exp(0) is 1: the future still counts. Mask with -inf, whose exp is 0."
)
def masked_with_zero(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(scores(q, k), 0.0).softmax(-1) @ v


@EXERCISE.mistake("Your softmax runs down the columns. Each query's row must add up to 1: dim=-1.")
def softmax_of_columns(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(scores(q, k)).softmax(0) @ v


@EXERCISE.mistake("You mixed the keys. Keys are only compared with; what is mixed are the values.")
def mixed_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(scores(q, k)).softmax(-1) @ k
