"""04.1: three broken steps, one for each contract."""

import torch

from kvlab.lesson.exercise import Draw, Exercise
from kvlab.lesson.l04_contracts import run_steps

EXERCISE = Exercise("04.1", "Three loops repaired", function="Steps", stub="""
class Steps:
    # text: all ids so far, [1, tokens]; held: how many are cached
    def told(self, cache, text, held):
        new = text[:, held:]
        return cache(new, torch.arange(new.shape[1]))

    def appends(self, model, text, held):
        return model(text)

    def slices(self, model, text, held):
        return model(text[:, held:])
""",
    atol=1e-3, cases=3, hint="Return the logits that `cache` or `model` gives; `held` is 0 for the prompt.",
)  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    sizes = [draw.integer(4, 6), 1, 2, 1, 3]  # tokens that each call adds
    return draw.integers(0, 256, 1, sum(sizes)), sizes


@EXERCISE.run
def run(candidate, text, sizes):
    return run_steps(candidate(), text, sizes)


@EXERCISE.alternative
class Alternative:
    def told(self, cache, text, held):
        return cache(text[:, held:], torch.arange(held, text.shape[1]))

    def appends(self, model, text, held):
        return model(text[:, held - text.shape[1] :])

    def slices(self, model, text, held):
        return model(text.clone())


def told(shift, first=lambda held, end: held, at_held=False):
    def step(cache, text, held):
        at = torch.arange(first(held, text.shape[1]), text.shape[1])
        places = at[:1].expand(len(at)) if at_held else at
        return cache(text[:, at], places + (shift(held) if held else 0))

    return step


def passed(first):
    return lambda model, text, held: model(text[:, first(held, text.shape[1]) :])


def last(held, end):
    return end - 1 if held else 0


for name, wrong, message in (
    ("told", told(lambda held: -held), "positions start at 0 in every call: they go on from `held`."),
    ("told", told(lambda held: 1), "one position too far: the first new token's is `held`."),
    ("told", told(lambda held: 0, at_held=True), "your new tokens share one position: count on."),
    ("told", told(lambda held: 0, lambda *_: 0), "the cached text goes in again: pass `text[:, held:]`."),
    ("told", told(lambda held: 0, last), "several tokens are new, but only the last goes in."),
    ("appends", passed(lambda *_: 0), "it appends all it is given: pass `text[:, held:]`."),
    ("appends", passed(last), "several tokens are new, but only the last goes in: pass `text[:, held:]`."),
    ("slices", passed(lambda _, end: end - 1), "it counts positions on what it gets: pass all of `text`."),
    ("slices", passed(lambda held, _: held), "it slices, and counts positions on what it gets: pass `text`."),
):
    planted = type("Steps", (Alternative,), {name: lambda self, *given, wrong=wrong: wrong(*given)})
    EXERCISE.mistake(f"`{name}`: {message}")(planted)
