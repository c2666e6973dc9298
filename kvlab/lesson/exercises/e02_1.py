"""02.1: rotary embeddings."""

import math

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("02.1", "Turn every pair by its position", function="turn", stub="""
def turn(x, positions, theta):
    # x: [tokens, head_dim], positions: [tokens]
    # -> x with every pair turned, [tokens, head_dim]
    ...
""",
    hint="Print the angles first: [tokens, head_dim / 2], one row a position, one column a pair.",
)  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    tokens, head_dim = draw.integer(3, 7), draw.one_of([6, 8, 16])
    positions = draw.integer(2, 20) + draw.integers(1, 4, tokens).cumsum(0)  # gaps, and not from 0
    return draw.normal(tokens, head_dim), positions, draw.one_of([100.0, 10_000.0])


@EXERCISE.alternative
def alternative(x, positions, theta):
    first, second = x.double().chunk(2, dim=-1)
    d = x.shape[-1]
    speed = torch.tensor([theta ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    turned = torch.complex(first, second) * torch.exp(1j * torch.outer(positions.double(), speed))
    return torch.cat((turned.real, turned.imag), dim=-1).float()


def variant(x, positions, theta, exponent=-2.0, unit=1.0, minus=-1, plus=1):
    d = x.shape[-1]
    angle = positions[:, None] * theta ** (torch.arange(d // 2) * exponent / d) * unit
    (a, b), cos, sin = x.chunk(2, dim=-1), angle.cos(), angle.sin()
    return torch.cat((a * cos + minus * b * sin, b * cos + plus * a * sin), dim=-1)


for message, how in (
    ("You turn backwards: (a, b) becomes (a cos − b sin, b cos + a sin).", {"minus": 1, "plus": -1}),
    ("That is no turn, the length changes: a cos **minus** b sin, b cos plus a sin.", {"minus": 1}),
    ("The exponent lacks its 2: pair i turns by theta ** (−2i / head_dim).", {"exponent": -1.0}),
    ("The exponent lacks its minus: later pairs must turn slower, not faster.", {"exponent": 2.0}),
    ("No degrees here: position × frequency is in radians already.", {"unit": math.pi / 180}),
):
    EXERCISE.mistake(message)(lambda *given, how=how: variant(*given, **how))


@EXERCISE.mistake(
    "You paired neighbours (0, 1), (2, 3), …: pair i is (i, i + head_dim / 2); cut x in halves."
)
def interleaved(x, positions, theta):
    order = torch.arange(x.shape[-1]).view(-1, 2).T.flatten()
    return variant(x[:, order], positions, theta)[:, order.argsort()]


@EXERCISE.mistake("You rotated by the row number 0, 1, 2, …: use `positions`, they need not start at 0.")
def counted(x, positions, theta):
    return variant(x, torch.arange(len(x)), theta)


@EXERCISE.mistake("You rotated every row by the length: each row has a position of its own, in `positions`.")
def by_length(x, positions, theta):
    return variant(x, torch.full((len(x),), len(x)), theta)


@EXERCISE.mistake("You turned b with the a that is turned already: keep the old halves until both are done.")
def overwritten(x, positions, theta):
    half = x.shape[-1] // 2
    x = torch.cat((variant(x, positions, theta)[:, :half], x[:, half:]), dim=-1)
    return torch.cat((x[:, :half], variant(x, positions, theta)[:, half:]), dim=-1)


@EXERCISE.mistake("Right for theta = 10,000 only: use the `theta` that is given.")
def fixed_theta(x, positions, theta):
    return variant(x, positions, 10_000.0)
