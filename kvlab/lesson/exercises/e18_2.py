"""18.2: rank keys by the bits that they share with a query."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("18.2", "Rank by sign bits", function="rank_by_bits", stub="""
def rank_by_bits(query, keys, directions):
    # query: [head_dim]; keys: [tokens, head_dim]
    # directions: [head_dim, bits]; a vector's bit says whether its
    #   product with a direction is above zero
    # return the keys' positions, [tokens]: fewest differing bits
    #   first; of equally many, the earlier key first
    ...
""", hint="Make the bits of both first, as True and False; then count where they differ.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    tokens = draw.integer(8, 12)
    return draw.normal(6), draw.normal(tokens, 6) + 0.4, draw.normal(6, 16)


@EXERCISE.alternative
def alternative(query, keys, directions):
    asked = [bool(x > 0) for x in query @ directions]
    apart = []
    for key in keys:
        bits = [bool(x > 0) for x in key @ directions]
        apart.append(sum(a != b for a, b in zip(asked, bits, strict=True)))
    return torch.tensor(sorted(range(len(keys)), key=lambda i: apart[i]))


# The ranking, but for what makes two vectors far apart, and how equal ones are ordered.
def variant(apart=lambda a, b: ((a > 0) != (b > 0)).sum(-1), order=lambda d: d.argsort(stable=True)):
    def rank_by_bits(query, keys, directions):
        return order(apart(query @ directions, keys @ directions))

    return rank_by_bits


def wrong(message, function):
    EXERCISE.mistake(message)(function)


wrong("The order is turned round: fewest differing bits come first.",
      variant(order=lambda d: (-d).argsort(stable=True)))  # fmt: skip
wrong("Of keys with equally many differing bits the earlier comes first: sort stably.",
      variant(order=lambda d: len(d) - 1 - d.flip(0).argsort(stable=True)))  # fmt: skip
wrong("You compare the products themselves. A hash keeps one bit of each: above zero or not.",
      variant(apart=lambda a, b: -(a * b).sum(-1)))  # fmt: skip
wrong("You count the bits that both have set. Two bits that are both unset agree as well.",
      variant(apart=lambda a, b: -((a > 0) & (b > 0)).sum(-1)))  # fmt: skip
wrong("You compare how many bits are set: which ones they are matters, not how many.",
      variant(apart=lambda a, b: ((a > 0).sum() - (b > 0).sum(-1)).abs()))  # fmt: skip
wrong("Those are the true scores, which read every key in full; the bits are what is kept.",
      lambda query, keys, directions: (keys @ query).argsort(descending=True, stable=True))  # fmt: skip
