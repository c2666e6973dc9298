"""03.2: greedy generation with a cache."""

import functools

import torch

import kvlab
from kvlab.lesson.exercise import Draw, Exercise
from kvlab.measure.watch import rows_computed

EXERCISE = Exercise(
    "03.2",
    "Prefill, then decode",
    function="generate",
    stub="""
def generate(lm, cache, prompt, new):
    # prompt: a list of token ids; cache: empty
    # lm(ids, cache): ids [1, tokens] -> logits [1, tokens, vocab],
    #   and the cache has grown by those tokens
    # return a list of the `new` most probable ids
    ...
""",
    cases=3,
    hint="It runs on a small random model with an empty `kvlab.Cache`; ids go in as `torch.tensor([[…]])`.",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    return draw.integers(0, 256, draw.integer(4, 7)).tolist(), draw.integer(5, 8)


@functools.cache
def tiny():
    return kvlab.load("tiny", device="cpu", dtype=torch.float64)


@EXERCISE.run
def run(candidate, prompt, new):
    with torch.no_grad(), rows_computed(tiny()) as rows:
        ids = candidate(tiny(), kvlab.Cache(tiny()), prompt, new)
    if ids is None:
        return None
    return {"ids": list(map(int, ids)), "one row a token": sum(rows) <= len(prompt) + new}


@EXERCISE.alternative
def alternative(lm, cache, prompt, new):
    text = list(prompt)
    lm(torch.tensor([prompt[:-1]]), cache)
    while len(text) < len(prompt) + new:
        text.append(int(lm(torch.tensor([text[-1:]]), cache)[0, 0].argmax()))
    return text[len(prompt) :]


def loop(lm, cache, prompt, new, row=-1, feed=lambda _, ids: ids[-1:], extra=0, cached=True):
    """The solution, but for which row of logits is read, what is fed back, and so on."""
    ids, given = [], list(prompt)
    for _ in range(new + extra):
        ids.append(int(lm(torch.tensor([given]), cache if cached else None)[0, row].argmax()))
        given = feed(prompt, ids)
    return ids[extra:]


def wrong(message, **how):
    EXERCISE.mistake(message)(lambda *given: loop(*given, **how))


wrong("The whole text goes in again, though the cache has seen it: feed the newest id.", feed=list.__add__)
wrong("You feed the prompt's last token again: feed the id just chosen.", feed=lambda prompt, _: prompt[-1:])
wrong("You read the first row of logits: the last one, `logits[0, -1]`, predicts the next token.", row=0)
wrong("Off by one: the prefill predicts the first id, and your list begins with the second.", extra=1)
wrong("Right ids, but each step computes the whole text: use `cache`.", feed=list.__add__, cached=False)
wrong("The newest id goes in without the cache, so the model sees it alone: `lm(ids, cache)`.", cached=False)
wrong("The prompt's last token goes in twice.", extra=1, feed=lambda p, ids: (ids if ids[1:] else p)[-1:])
EXERCISE.mistake("Return the new ids only: your list begins with the prompt.")(
    lambda lm, cache, prompt, new: prompt + loop(lm, cache, prompt, new)
)
