"""01.1: the causal mask."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "01.1",
    "The causal mask",
    function="causal_mask",
    stub="""
def causal_mask(tokens):
    # tokens: how many -> [tokens, tokens] of True and False
    # row i, column j is True where query i may look at key j
    ...
""",
    hint="Draw it for three tokens: which keys may the first, the second, the third query look at?",
)


def ones(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool)


@EXERCISE.inputs
def inputs(draw: Draw) -> tuple[int]:
    return (draw.integer(2, 9),)


@EXERCISE.alternative
def alternative(tokens: int) -> Tensor:
    position = torch.arange(tokens)
    return position[None, :] <= position[:, None]


@EXERCISE.mistake(
    "Your diagonal is False: a token may look at itself. The first one has nothing else to see."
)
def no_diagonal(tokens: int) -> Tensor:
    return ones(tokens).tril(-1)


@EXERCISE.mistake(
    "Rows and columns are swapped: yours lets a query see only itself and what comes after it. Rows are "
    "queries, columns keys: the triangle of True lies below the diagonal."
)
def transposed(tokens: int) -> Tensor:
    return ones(tokens).triu()


@EXERCISE.mistake("True and False are swapped: yours is True where looking is forbidden.")
def inverted(tokens: int) -> Tensor:
    return ones(tokens).triu(1)


@EXERCISE.mistake(
    "Your triangle is one column too wide: each query sees the next token, which it is to predict."
)
def one_ahead(tokens: int) -> Tensor:
    return ones(tokens).tril(1)


@EXERCISE.mistake("Yours lets every query see every key, the future too: that is no causal mask.")
def everything(tokens: int) -> Tensor:
    return ones(tokens)


@EXERCISE.mistake("The right pattern in numbers: return True and False, for example with `.bool()`.")
def numbers(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens).tril()


@EXERCISE.mistake(
    "That is the mask as numbers to add to the scores. Here return True where looking is allowed."
)
def additive(tokens: int) -> Tensor:
    return torch.full((tokens, tokens), float("-inf")).triu(1)
