"""08.2: one static cache for many texts."""

import functools

import torch

import kvlab
from kvlab.lesson.exercise import Draw, Exercise
from kvlab.measure.watch import rows_computed

EXERCISE = Exercise("08.2", "One cache, many texts", function="serve", cases=3, stub="""
def serve(lm, cache, prompts, new):
    # cache: static, used before; cache.remaining slots are free
    # prompts: lists of ids. For each: its `new` most probable
    #   next ids, or None, without running, if there is no room
    # return the list of these
    ...
""", hint="It runs on a small random model; ids go in as `torch.tensor([ids])`.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    new, longest = draw.integer(3, 5), draw.integer(7, 9)
    lengths = [draw.integer(3, 4), longest, longest + 1, draw.integer(4, 5)]  # the second fits exactly
    return longest + new - 1, [draw.integers(0, 256, n).tolist() for n in lengths], new


@functools.cache
def tiny():
    return kvlab.load("tiny", device="cpu", dtype=torch.float64)


@EXERCISE.run
def run(candidate, capacity, prompts, new):
    cache = kvlab.Cache(tiny(), store="static", capacity=capacity)
    with torch.no_grad(), rows_computed(tiny()) as rows:
        tiny()(torch.tensor([[1, 2]]), cache)  # somebody's text is still in it
        found = candidate(tiny(), cache, [list(p) for p in prompts], new)
    if found is None:
        return None
    most = 2 + sum(len(p) + new for p in prompts if len(p) + new - 1 <= capacity)
    return {"ids": [one and list(map(int, one)) for one in found], "one row a token": sum(rows) <= most}


@EXERCISE.alternative
def alternative(lm, cache, prompts, new):
    fits = [len(p) + new <= cache.kind.capacity + 1 for p in prompts]
    options = {"max_new_tokens": new, "stop_tokens": [], "compile": False, "progress": False}
    pairs = zip(prompts, fits, strict=True)
    return [cache.crop(0) or kvlab.generate(lm, p, cache, **options).ids if fit else None for p, fit in pairs]


# The solution, but for when it resets, how it counts, what it feeds back.
def loop(lm, cache, prompts, new, reset=range(9), extra=-1, use=True, feed=lambda _, ids: ids[-1:], skip=0):
    answers: list[list[int] | None] = []
    for i, prompt in enumerate(prompts):
        if i in reset:
            cache.reset()
        given, ids = prompt, list[int]()
        while len(ids) < new + skip and len(prompt) + new + extra <= cache.kind.capacity:
            try:
                logits = lm(torch.tensor([given]), cache if use else None)
            except kvlab.CacheError:
                break
            ids.append(int(logits[0, -1].argmax()))
            given = feed(prompt, ids)
        answers.append(ids[skip:] or None)
    return answers


for message, how in (
    ("Other texts are still in the cache: `cache.reset()` before each one.", {"reset": []}),
    ("You reset once: a text that is not the first continues the one before.", {"reset": [0]}),
    ("One slot too many: the last new id is never fed back, so a text needs len + new − 1.", {"extra": 0}),
    ("You begin a text that has no room for its end: count before you run it.", {"extra": -99}),
    ("The whole text goes in again at every token: feed the newest id.", {"feed": list.__add__}),
    ("Right ids, but you never use the cache: `lm(ids, cache)`.", {"use": False, "feed": list.__add__}),
    ("Off by one: your list begins with the second id; the prompt's logits give the first.", {"skip": 1}),
):
    EXERCISE.mistake(message)(lambda *given, how=how: loop(*given, **how))
