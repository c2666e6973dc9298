"""05.1: a probe: the same text in other calls must give the same logits."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("05.1", "A probe", function="probe", stub="""
def probe(step, full, tokens, first):
    # step(tokens [1, new], state) -> logits [1, new, vocab], state
    #   (state None starts a text)
    # full(tokens [1, total]) -> logits [1, total, vocab], no cache
    # pass `first` tokens in one call, then the others one by one;
    # return the largest |difference| of each token's logits, [total]
    ...
""")  # fmt: skip


class Toy:
    """Logits are the sine of the sum of all tokens so far; from token `at` on they are off by `slip`."""

    def __init__(self, table, slip, at):
        self.table, self.slip, self.at = table, slip, at

    def full(self, tokens):
        return self.table[tokens].cumsum(dim=1).sin()

    def step(self, tokens, state=None):
        total, seen = (torch.zeros(1, 1, self.table.shape[1]), 0) if state is None else state
        sums = total + self.table[tokens].cumsum(dim=1)
        late = torch.arange(seen, seen + tokens.shape[1]) >= self.at
        return sums.sin() + self.slip * late[None, :, None], (sums[:, -1:], seen + tokens.shape[1])


@EXERCISE.inputs
def inputs(draw: Draw):
    total, first, slip = draw.integer(6, 9), draw.integer(2, 4), draw.normal(5) * draw.one_of([0.0, 1.0, 1.0])
    toy = Toy(draw.normal(11, 5), slip, first + draw.integer(0, 1))
    return toy.step, toy.full, draw.integers(0, 11, 1, total), first


def largest(gap):
    return gap.abs().amax(-1)


def variant(step, full, tokens, first, keep=lambda old, new: new, so_far=False, alone=False, size=largest):
    parts = [tokens[:, :first], *tokens[:, first:].split(1, dim=1)]
    state, rows, read = None, [], 0
    for part in parts:
        read += part.shape[1]
        logits, new = step(tokens[:, :read] if so_far else part, state)
        rows.append(logits[:, -part.shape[1] :])
        state = keep(state, new)
    truth = torch.cat([full(part) for part in parts], dim=1) if alone else full(tokens)
    return size(torch.cat(rows, dim=1) - truth)[0]


@EXERCISE.alternative
def alternative(step, full, tokens, first):
    got, state, start = torch.zeros_like(full(tokens)), None, 0
    for size in [first] + [1] * (tokens.shape[1] - first):
        got[:, start : start + size], state = step(tokens[:, start : start + size], state)
        start += size
    return torch.linalg.vector_norm(got - full(tokens), ord=float("inf"), dim=2).squeeze(0)


MISTAKES = {
    "Every call starts a new text: hand the state that a call returns to the next one.": {
        "keep": lambda *_: None
    },
    "You pass the first call's state on and on: each call returns a new one.": {
        "keep": lambda old, new: old or new
    },
    "You pass the whole text so far in every call: the state holds it, pass the new token.": {"so_far": True},
    "The truth is `full` of the whole text: recomputing a part alone forgets the rest.": {"alone": True},
    "Take |difference| first: a logit that is far too low is wrong, too.": {"size": lambda g: g.amax(-1)},
    "Take the largest difference: one wrong logit hides in a mean.": {"size": lambda g: g.abs().mean(-1)},
    "Return one number a token: where it begins says much.": {"size": lambda g: g.abs().amax(1)},
}
for message, how in MISTAKES.items():
    EXERCISE.mistake(message)(lambda *given, how=how: variant(*given, **how))
