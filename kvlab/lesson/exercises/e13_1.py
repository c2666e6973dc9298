"""13.1: the fast Hadamard rotation."""

import math

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("13.1", "Rotate with additions", function="hadamard", stub="""
def hadamard(x):
    # x: [tokens, d], d a power of two -> [tokens, d]
    # stage 1: pairs of neighbours (a, b) become (a + b, a - b);
    # stage 2: the same for numbers two apart, then four, ...
    #   until d / 2; at the end divide once by sqrt(d)
    # leave x as it is
    ...
""", hint="`x.view(tokens, -1, 2, step)` puts numbers that are `step` apart side by side.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    return (draw.normal(draw.integer(2, 4), draw.one_of([4, 8, 16])),)


@EXERCISE.alternative
def alternative(x):
    h = torch.ones(1, 1)
    while len(h) < x.shape[-1]:
        h = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), h)
    return x @ h / math.sqrt(x.shape[-1])


# The stages, but for how far they reach, which sign they take and by what they divide.
def stages(x, steps=None, sign=-1, scale=lambda d: d**-0.5, spoilt=False):
    d = x.shape[-1]
    for step in steps(d) if steps else [2**i for i in range(int(math.log2(d)))]:
        x = x.reshape(len(x), -1, 2, step)
        first, second = x[:, :, 0].clone(), x[:, :, 1].clone()
        total = first + second
        second = total + sign * second if spoilt else first + sign * second
        x = torch.stack((total, second), dim=2).reshape(len(x), d)
    return x * scale(d)


def wrong(message, **how):
    EXERCISE.mistake(message)(lambda x: stages(x, **how))


wrong("You left out the division by √d: lengths must survive a rotation.", scale=lambda d: 1.0)
wrong("You divide by d, not by √d: the vectors come out too short.", scale=lambda d: 1 / d)
wrong("Only neighbours were combined: go on with numbers two apart, four apart, …", steps=lambda d: [1])
wrong("The last stage is missing: the step goes up to d / 2.",
      steps=lambda d: [2**i for i in range(int(math.log2(d)) - 1)])  # fmt: skip
wrong("Both numbers of a pair become a + b; the second is a - b.", sign=1)
wrong("You wrote the sum over `a` before you took the difference: keep the old pair.", spoilt=True)


@EXERCISE.mistake("You rotated along the tokens: mix the d numbers of each vector, row by row.")
def along_tokens(x):
    return alternative(torch.eye(4))[: len(x), : len(x)] @ x
