"""16.1: keep the recent entries and the heavy hitters."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("16.1", "Recent entries and heavy hitters", function="heavy_hitters", stub="""
def heavy_hitters(attention, budget, recent):
    # attention: [queries, tokens], causal; each row adds up to 1
    # keep the last `recent` tokens, and of the others those that
    #   received most attention in all: `budget` tokens together
    # return their positions, ascending: a tensor [budget]
    ...
""", hint="Print the column sums, and mark what the recent ones already take.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    tokens, recent = draw.integer(9, 14), draw.integer(2, 3)
    late = 0.5 * torch.arange(tokens) * (torch.arange(tokens) >= tokens - recent)  # recent ones weigh most
    scores = 2 * draw.normal(tokens, tokens) + late
    causal = torch.ones(tokens, tokens).tril().bool()
    return scores.masked_fill(~causal, float("-inf")).softmax(-1), recent + draw.integer(2, 4), recent


# The function, but for what is counted, which are candidates, and in which order they are returned.
def variant(count=lambda a: a.sum(0), others=True, largest=True, order=True, protect=True, more=False):
    def heavy_hitters(attention, budget, recent):
        tokens = attention.shape[1]
        worth = count(attention).clone()
        n = budget if more or not protect else budget - recent
        n = min(n, tokens - recent)
        candidates = worth[: tokens - recent] if others and protect else worth
        best = candidates.topk(n, largest=largest).indices
        kept = torch.cat((best, torch.arange(tokens - recent, tokens))) if protect else best
        kept = kept if others or not protect else kept.unique()
        return kept.sort().values if order else kept

    return heavy_hitters


def average(attention):
    seen_by = torch.arange(attention.shape[0], 0, -1)  # position 0 is seen by all queries, the last by one
    return attention.sum(0) / seen_by


@EXERCISE.alternative
def alternative(attention, budget, recent):
    total = attention.sum(0)
    total[-recent:] = float("inf")
    return torch.tensor(sorted(sorted(range(len(total)), key=lambda i: -total[i])[:budget]))


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("You forgot the recent ones: they stay even if little attention has reached them yet.", protect=False)
wrong("You chose among all tokens, so a recent one takes a heavy hitter's place: fewer than `budget` stay.",
      others=False)  # fmt: skip
wrong(
    "You keep `budget` heavy hitters and the recent ones besides. `budget` is for both together.", more=True
)
wrong(
    "You looked at the last query only. That is TOVA; H2O adds up all queries so far.", count=lambda a: a[-1]
)
wrong(
    "You divided by the number of queries that could see a token. H2O takes the sum as it is.", count=average
)
wrong("You added along the rows: each query gives 1 in all. What a token *receives* is its column.",
      count=lambda a: a.sum(1))  # fmt: skip
wrong("You kept the lightest: the order is turned round.", largest=False)
wrong("The right tokens, but not ascending: sort the positions.", order=False)
