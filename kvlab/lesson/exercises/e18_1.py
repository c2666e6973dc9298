"""18.1: how much can any key of a page score?"""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("18.1", "A bound for a whole page", function="page_bounds", stub="""
def page_bounds(query, keys, page):
    # query: [head_dim]; keys: [tokens, head_dim], whole pages
    # of each page only two vectors were kept: the minimum and the
    #   maximum of every channel over the page's keys
    # return [pages]: the most that a key between them could score,
    #   the score being query · key
    ...
""", hint="One channel at a time: if q is negative there, which of the two makes q · k larger?")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    page = draw.integer(2, 4)
    return draw.normal(6), draw.normal(page * draw.integer(3, 5), 6), page


@EXERCISE.alternative
def alternative(query, keys, page):
    found = []
    for some in keys.split(page):
        low, high = some.min(dim=0).values, some.max(dim=0).values
        found.append(sum(q * (h if q > 0 else lo) for q, lo, h in zip(query, low, high, strict=True)))
    return torch.stack(found)


# The bound, but for what is made of the page's keys [pages, page, head_dim].
def variant(score):
    def page_bounds(query, keys, page):
        x = keys.unflatten(0, (-1, page))
        return score(query, x.amin(dim=1), x.amax(dim=1), x)

    return page_bounds


def wrong(message, function):
    EXERCISE.mistake(message)(function)


wrong("You take the larger of two sums. Choose in every channel, then sum: the best key may mix both.",
      variant(lambda q, low, high, x: torch.maximum(low @ q, high @ q)))  # fmt: skip
wrong("The mean of the page's keys bounds nothing: one good key is hidden among the others.",
      variant(lambda q, low, high, x: x.mean(dim=1) @ q))  # fmt: skip
wrong("That is the smaller of both in every channel: the least that a key could score, not the most.",
      variant(lambda q, low, high, x: torch.minimum(q * low, q * high).sum(-1)))  # fmt: skip
wrong("Only the maxima are used: where the query is negative, the minimum scores more.",
      variant(lambda q, low, high, x: high @ q))  # fmt: skip
wrong("That is the true best score. It is right, but needs every key; only the two vectors were kept.",
      variant(lambda q, low, high, x: (x @ q).amax(dim=1)))  # fmt: skip
wrong("A bound, but a looser one than need be: |q| times the largest |k| forgets the signs.",
      variant(lambda q, low, high, x: torch.maximum(low.abs(), high.abs()) @ q.abs()))  # fmt: skip
