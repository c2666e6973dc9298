"""16.2: several entries become one that weighs as much."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("16.2", "Merge entries, and count them", function="merge", stub="""
def merge(keys, values, counts):
    # keys, values: [entries, head_dim]; counts: [entries], how many
    #   tokens each of them already stands for (1.0, or more)
    # return one key [head_dim], one value [head_dim], and what is
    #   added to the score of the new entry, a tensor []
    # where the keys are equal, attention must stay exactly the same
    ...
""", hint="n equal keys add n · exp(score) to the softmax. What must a single one add?")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    entries = draw.integer(2, 5)
    counts = torch.tensor([float(draw.integer(1, 4)) for _ in range(entries)])
    counts[0] += 2  # never all alike
    return draw.normal(entries, 4), draw.normal(entries, 4), counts


# The function, but for how keys and values are averaged, and what is added to the score.
def weighed(x, counts):
    return counts @ x / counts.sum()


def variant(key=weighed, value=weighed, bias=lambda counts: counts.sum().log()):
    return lambda keys, values, counts: (key(keys, counts), value(values, counts), bias(counts))


@EXERCISE.alternative
def alternative(keys, values, counts):
    share = counts.log().softmax(0)
    return (share[:, None] * keys).sum(0), (share[:, None] * values).sum(0), counts.log().logsumexp(0)


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


def plain(x, counts):
    return x.mean(0)


def total(x, counts):
    return counts @ x


wrong("You add nothing: the new entry weighs as much as one token, not as all of them.",
      bias=lambda counts: torch.zeros(()))  # fmt: skip
wrong("You add the count itself. It multiplies exp(score), so its logarithm is added to the score.",
      bias=lambda counts: counts.sum())  # fmt: skip
wrong("You count entries. Each may already stand for several tokens: add up `counts`.",
      bias=lambda counts: torch.tensor(float(len(counts))).log())  # fmt: skip
wrong("You add up the logarithms: that is the log of the product. Take the log of the sum.",
      bias=lambda counts: counts.log().sum())  # fmt: skip
wrong("You leave `counts` out everywhere: an entry that stands for three tokens weighs three times as much.",
      key=plain, value=plain, bias=lambda counts: torch.tensor(float(len(counts))).log())  # fmt: skip
wrong("Keys and values are plain means. An entry that stands for three tokens weighs three times as much.",
      key=plain, value=plain)  # fmt: skip
wrong("Keys and values are added up: take their means, weighted by `counts`.", key=total, value=total)
wrong("The values are added up. The softmax already weighs the entry by its count: take their mean.",
      value=total)  # fmt: skip
