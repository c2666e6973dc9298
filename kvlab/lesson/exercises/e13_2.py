"""13.2: a codebook that fits its numbers."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("13.2", "One round of Lloyd's iteration", function="lloyd", stub="""
def lloyd(x, levels):
    # x: [n] numbers; levels: [k], ascending
    # each number belongs to its nearest level; a level moves to
    #   the mean of the numbers that belong to it
    # a level to which none belongs stays where it is
    # return the new levels [k]; leave `levels` as it is
    ...
""", hint="`(x[:, None] - levels).abs().argmin(1)` says to which level each number belongs.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    x = draw.normal(draw.integer(40, 60)) + 0.4
    levels = torch.cat((torch.linspace(-1.5, 1.7, draw.one_of([3, 4])), torch.tensor([90.0])))
    return x, levels  # nobody belongs to the last one


@EXERCISE.alternative
def alternative(x, levels):
    code = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
    count = torch.bincount(code, minlength=len(levels))
    total = torch.zeros_like(levels).index_add(0, code, x)
    return torch.where(count > 0, total / count.clamp(min=1), levels)


# The round, but for who belongs to a level, what it moves to, and what an empty one does.
def variant(x, levels, centre=torch.mean, empty=None, edges=None, far=False):
    if edges:
        code = torch.bucketize(x, edges(x, levels))
    else:
        distance = (x[:, None] - levels).abs()
        code = distance.argmax(1) if far else distance.argmin(1)
    found = []
    for i, level in enumerate(levels):
        mine = x[code == i]
        found.append(centre(mine) if len(mine) else level if empty is None else empty)
    return torch.stack(found)


def wrong(message, **how):
    EXERCISE.mistake(message)(lambda x, levels: variant(x, levels, **how))


NAN, NONE = torch.tensor(float("nan")), torch.tensor(0.0)
wrong("A level to which no number belongs became NaN: let it stay.", empty=NAN)
wrong("A level to which no number belongs jumped to 0: let it stay.", empty=NONE)
wrong("You took the median; the mean is what makes the squared error least.", centre=torch.median)
wrong("You took the middle of the smallest and largest number; take the mean of all that belong to a level.",
      centre=lambda mine: (mine.min() + mine.max()) / 2)  # fmt: skip
wrong("The borders are half-way between two levels, not at the levels.", edges=lambda x, levels: levels[:-1])
wrong("Evenly filled levels are something else: each number belongs to its nearest level.",
      edges=lambda x, levels: x.quantile(torch.arange(1, len(levels)) / len(levels)))  # fmt: skip
