"""19.1: score all tokens with a lightning indexer."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("19.1", "An indexer's scores", function="index_scores", stub="""
def index_scores(q, w, keys):
    # q: [heads, d], one small query for each index head
    # w: [heads], how much each head counts; may be negative
    # keys: [tokens, d], one small key a token, for all heads
    # return [tokens]: sum over j of w_j * ReLU(q_j · k_s)
    ...
""", hint="`q @ keys.T` is [heads, tokens]; ReLU sets what is negative to 0.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    heads, tokens, d = draw.integer(2, 4), draw.integer(5, 9), draw.one_of([4, 8])
    return draw.normal(heads, d), draw.normal(heads), draw.normal(tokens, d)


@EXERCISE.alternative
def alternative(q, w, keys):
    total = torch.zeros(len(keys))
    for j in range(len(q)):
        total += w[j] * torch.clamp(keys @ q[j], min=0)
    return total


@EXERCISE.mistake("The ReLU is missing: each head's product is cut off at 0 before it is weighted.")
def linear(q, w, keys):
    return w @ (q @ keys.T)


@EXERCISE.mistake("The ReLU comes last: cut off each head's product, then weight and add.")
def last(q, w, keys):
    return torch.relu(w @ (q @ keys.T))


@EXERCISE.mistake(
    "The weights are inside the ReLU: a head with a negative weight then counts the wrong tokens."
)
def inside(q, w, keys):
    return torch.relu(w[:, None] * (q @ keys.T)).sum(dim=0)


@EXERCISE.mistake("The heads are averaged without their weights w.")
def unweighted(q, w, keys):
    return torch.relu(q @ keys.T).mean(dim=0)


@EXERCISE.mistake("This is a softmax over the tokens: the scores themselves are wanted, they only rank.")
def normalised(q, w, keys):
    return (w @ torch.relu(q @ keys.T)).softmax(dim=0)
