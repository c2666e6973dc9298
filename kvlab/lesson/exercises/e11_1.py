"""11.1: cross-attention with keys and values that are computed once."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("11.1", "Project the source once", function="Cross", stub="""
class Cross:
    def __init__(self):
        self.keys = self.values = None

    def step(self, q, source, project):
        # q: [head_dim], of the newest target word
        # source: [words, hidden], what the encoder made of the source
        # project(source) -> keys, values, each [words, head_dim]
        # call project once for each source; return out [head_dim]
        ...

    def reset(self):
        # the next step brings another source
        ...
""", hint="The check takes two sources, resets in between, and notes every call of `project`.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    weights = draw.normal(6, 4), draw.normal(6, 4)
    texts = [(draw.normal(draw.integer(3, 6), 6), draw.normal(3, 4)) for _ in range(2)]
    return weights, texts


@EXERCISE.run
def run(candidate, weights, texts):
    cross, outs, projected = candidate(), [], []

    def project(source):
        projected.append(len(source))
        return tuple(source @ w for w in weights)

    for source, queries in texts:
        outs += [cross.step(q, source, project) for q in queries]
        cross.reset()
    return [outs, projected]


# The class, but for when it projects, what of the source, who sees how much, and what a reset does.
def variant(every=0, rows=slice(None), causal=0, scale=0.5, forgets=1, divide=1):
    class Cross:
        def __init__(self):
            self.kept, self.steps = None, 0

        def step(self, q, source, project):
            if self.kept is None or every:
                self.kept = project(source[rows])
            self.steps += 1
            keys, values = (part[: self.steps] if causal else part for part in self.kept)
            scores = torch.einsum("wd,d->w", keys, q) * scale
            weights = scores.softmax(0) if divide else scores.exp()
            return torch.einsum("w,wd->d", weights, values)

        def reset(self):
            self.kept, self.steps = (None, 0) if forgets else (self.kept, 0)

    return Cross


EXERCISE.alternative(variant())


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("You project the source again at every word: its keys and values cannot have changed.", every=1)
wrong("Your source is causal: a target word sees all of the source, the later words too.", causal=1)
wrong("After `reset` the old source still answers: forget its keys and values there.", forgets=0)
wrong("You cache the last word of the source only: all of it comes in the first step.", rows=slice(-1, None))
wrong("You left out the division by √head_dim: the softmax gets too sharp.", scale=1.0)
wrong("Divide by the root of head_dim, the length of `q`, not of the source's rows.", scale=6**-0.5)
wrong("Your weights do not add up to one: take the softmax over the source words.", divide=0)
