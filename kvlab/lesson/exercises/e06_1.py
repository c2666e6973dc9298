"""06.1: top-p, the nucleus."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "06.1",
    "Keep the nucleus",
    function="nucleus",
    stub="""
def nucleus(logits, p):
    # logits: [vocab], p: between 0 and 1
    # keep the fewest tokens whose probabilities add up to p or more
    # -> probabilities [vocab]: 0 where dropped, adding up to 1
    ...
""",
    hint="Sort from the likeliest down, add up, decide, and put the result back at the tokens' own ids.",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    while True:
        logits, p = 1.5 * draw.normal(draw.integer(7, 10)), draw.one_of([0.6, 0.7, 0.8, 0.9])
        probabilities = logits.softmax(0)
        sums = probabilities.sort(descending=True).values.cumsum(0)
        kept = int((sums < p).sum()) + 1
        if probabilities.max() < p - 0.02 and (sums - p).abs().min() > 0.01 and kept < len(logits) - 1:
            return logits, p


@EXERCISE.alternative
def alternative(logits, p):
    probabilities = logits.softmax(0)
    keep, total = [], 0.0
    for i in sorted(range(len(logits)), key=lambda i: -logits[i]):
        keep.append(i)
        total += float(probabilities[i])
        if total >= p:
            break
    return torch.tensor([float(probabilities[i]) / total if i in keep else 0.0 for i in range(len(logits))])


def variant(logits, p, descending=True, more=0, ids=True, sort=True):
    probabilities = logits.softmax(0)
    ordered, order = probabilities.sort(descending=descending)
    if not sort:
        ordered, order = probabilities, torch.arange(len(probabilities))
    count = int((ordered.cumsum(0) < p).sum()) + 1 + more
    ordered = ordered * (torch.arange(len(ordered)) < count)
    result = torch.zeros_like(ordered).scatter(0, order, ordered) if ids else ordered
    return result / result.sum()


for message, how in (
    (
        "One too few: the token that crosses p belongs to the nucleus, else it holds less than p.",
        {"more": -1},
    ),
    ("One too many: the token after the one that crosses p is dropped.", {"more": 1}),
    ("You sorted upwards: the sum must begin with the likeliest token.", {"descending": False}),
    ("You added up in order of id: sort first, from the likeliest down.", {"sort": False}),
    ("Right numbers at the wrong tokens: put them back by the indices that `sort` returns.", {"ids": False}),
):
    EXERCISE.mistake(message)(lambda *given, how=how: variant(*given, **how))


@EXERCISE.mistake("The right tokens, but their probabilities no longer add up to 1: divide by their sum.")
def not_renormalised(logits, p):
    return logits.softmax(0) * (variant(logits, p) > 0)


@EXERCISE.mistake("A softmax of probabilities: put -inf into the **logits** that go, or divide by the sum.")
def softmax_twice(logits, p):
    return not_renormalised(logits, p).softmax(0)
