"""11.2: one step of beam search, and the cache that goes with it."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("11.2", "A step of beam search", function="grow", stub="""
def grow(scores, log_p, texts, cache):
    # scores: [beams], sum of each beam's log probabilities so far
    # log_p: [beams, vocab], of the next word after each beam
    # texts: a list of ids for each beam
    # keep the best `beams` continuations of all beams together
    # cache.reorder(rows): row i becomes what row rows[i] was
    # return their scores [beams], best first, and their texts
    ...
""", hint="The check takes three steps and looks at scores, texts and cache rows after each.")  # fmt: skip


class Rows:
    """A cache that only knows which text each of its rows holds."""

    def __init__(self, beams):
        self.rows = [f"row {i}" for i in range(beams)]

    def reorder(self, rows):
        self.rows = [self.rows[int(row)] for row in rows]


@EXERCISE.inputs
def inputs(draw: Draw):
    beams, vocab = draw.integer(3, 4), draw.integer(6, 8)
    return draw.normal(beams), [draw.normal(beams, vocab).log_softmax(-1) for _ in range(3)]


@EXERCISE.run
def run(candidate, scores, steps):
    texts, cache, seen = [[i] for i in range(len(scores))], Rows(len(scores)), []
    for log_p in steps:
        scores, texts = candidate(scores, log_p, texts, cache)
        seen.append([scores, [[int(word) for word in text] for text in texts], list(cache.rows)])
    return seen


# The function, but for what it adds up, how it reads the flat index, whose text and cache row it takes.
def variant(past=1, apart=0, worst=0, flat=lambda i, n, v: (i // v, i % v), follow=1, order=1):
    def grow(scores, log_p, texts, cache):
        beams, vocab = log_p.shape
        total = log_p + scores[:, None] if past else log_p
        if apart:
            index = torch.arange(beams) * vocab + total.argmax(dim=1)
        else:
            index = total.flatten().argsort(descending=not worst)[:beams]
        pairs = [flat(int(i), beams, vocab) for i in index]
        if order:
            cache.reorder([parent for parent, _ in pairs])
        kept = [texts[parent if follow else i] + [word] for i, (parent, word) in enumerate(pairs)]
        return total.flatten()[index], kept

    return grow


EXERCISE.alternative(variant())


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("The cache's rows stay where they were: call `cache.reorder` with the parents.", order=0)
wrong("The texts stay where they were: continue `texts[parent]`, not `texts[i]`.", follow=0)
wrong("You forgot the scores so far: add them to `log_p` before you choose.", past=0)
wrong("Each of your beams keeps its own best word: choose among all beams together.", apart=1)
wrong("You keep the worst continuations: log probabilities are better the larger they are.", worst=1)
wrong(
    "You read the flat index by columns: parent = index // vocab, word = index % vocab.",
    flat=lambda i, n, v: (i % n, i // n),
)
