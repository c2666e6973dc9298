"""19.2: the loss that an indexer learns from."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("19.2", "Learn from attention", function="loss", stub="""
def loss(attention, scores, seen):
    # attention: [heads, tokens], one query's; 0 where not seen
    # scores: [tokens], of the indexer
    # seen: bool [tokens], what the query may look at
    # Target: the heads' attention added up, made to sum to 1.
    # return KL(target || softmax of the seen scores), one number:
    #   the sum over seen tokens of target * (log target - log p)
    ...
""", hint="`torch.special.xlogy(t, t)` is t·log t, and 0 where t is 0.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    heads, tokens, n = draw.integer(2, 4), draw.integer(7, 9), draw.integer(4, 6)
    seen = torch.arange(tokens) < n
    attention = draw.normal(heads, tokens).masked_fill(~seen, float("-inf")).softmax(dim=-1)
    return attention, 2 * draw.normal(tokens), seen


@EXERCISE.alternative
def alternative(attention, scores, seen):
    target = attention[:, seen].mean(dim=0)
    p = scores[seen].softmax(dim=0)
    return torch.nn.functional.kl_div(p.log(), target, reduction="sum")


def variant(attention, scores, seen, hide=True, sums=True, turned=False, entropy=True):
    target = attention.sum(dim=0)
    if sums:
        target = target / target.sum()
    log = (scores.masked_fill(~seen, float("-inf")) if hide else scores).log_softmax(dim=0)
    log = log.masked_fill(~seen, 0.0)
    if turned:
        p, logs = log.exp() * seen, target.clamp(min=1e-30).log() * seen
        return (torch.special.xlogy(p, p) - p * logs).sum()
    return (torch.special.xlogy(target, target) * entropy - target * log).sum()


def wrong(message, **how):
    EXERCISE.mistake(message)(lambda *given: variant(*given, **how))


wrong("The softmax runs over tokens that the query cannot see: set their scores to −inf first.", hide=False)
wrong("The target sums to the number of heads: divide it by its sum.", sums=False)
wrong("The divergence is turned around: the target comes first, KL(target ‖ p).", turned=True)
wrong("This is the cross-entropy: the target's own entropy, Σ t log t, is missing.", entropy=False)


@EXERCISE.mistake("Each head is compared by itself and then averaged: add the heads up first, then compare.")
def by_head(attention, scores, seen):
    log = scores.masked_fill(~seen, float("-inf")).log_softmax(dim=0).masked_fill(~seen, 0.0)
    return (torch.special.xlogy(attention, attention) - attention * log).sum(dim=-1).mean()
