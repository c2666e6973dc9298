"""07.2: how many users a device serves."""

import math

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("07.2", "Fit a service", function="users", rtol=0, atol=0, stub="""
def users(device, weights, spare, tokens, layers):
    # device, weights: bytes; spare: the share of the device that
    #   must stay free for activations (0.1: a tenth)
    # tokens: of each user; all users share the weights
    # layers: a list of (bytes a token, window), one for each layer;
    #   window None: keeps all, else at most window - 1 tokens
    # return how many users fit, a whole number
    ...
""", hint="First the bytes left for caches, then those of one user's cache, layer by layer.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    cost, window = draw.integer(20, 60) * 1024, draw.integer(300, 900)
    sliding, full = draw.integer(4, 9), draw.integer(3, 6)
    tokens = draw.one_of([draw.integer(100, 250), draw.integer(2000, 4000), draw.integer(4000, 5000)])
    layers = [(cost, window)] * sliding + [(cost, None)] * full
    one = cost * (sliding * min(tokens, window - 1) + full * tokens)
    weights, fitting, spare = one * draw.integer(2, 4), draw.integer(9, 14), draw.one_of([0.1, 0.2])
    # A part of one more user, so that rounding and each omission show, or less than one entry too many takes.
    over = draw.one_of([0.6 * one, 0.5 * fitting * sliding * cost])
    device = int((weights + fitting * one + over) / (1 - spare))
    return device, weights, spare, tokens, layers


@EXERCISE.alternative
def alternative(device, weights, spare, tokens, layers):
    count = 0
    while True:
        held = weights
        for cost, window in layers:
            kept = tokens if window is None else sorted((window - 1, tokens))[0]
            held += (count + 1) * cost * kept
        if held > device - spare * device:
            return count
        count += 1


def count(device, weights, spare, tokens, layers, kept=lambda n, w: min(n, w - 1), rounding=math.floor):
    kept = [tokens if w is None else kept(tokens, w) for _, w in layers]
    one = sum(cost * n for (cost, _), n in zip(layers, kept, strict=True))
    return rounding((device * (1 - spare) - weights) / one)


def wrong(message, change=lambda *given: given, **how):
    EXERCISE.mistake(message)(lambda *given: count(*change(*given), **how))


wrong("The windows are missing: a layer with a window keeps at most window - 1 tokens.", kept=lambda n, _: n)
wrong("One entry too many: the new token is the last of its window, so window - 1 are kept.", kept=min)
wrong("A text may be shorter than the window: then all of it is kept, not more.", kept=lambda _, w: w - 1)
wrong(
    "Nothing is left for activations: take `spare` off the device.", lambda d, w, s, t, la: (d, w, 0, t, la)
)
wrong("The weights are missing: they lie on the device, too.", lambda d, w, s, t, la: (d, 0, s, t, la))
wrong("You rounded up: the last user does not fit any more.", rounding=math.ceil)
wrong("You counted one layer: sum over all.", lambda d, w, s, t, la: (d, w, s, t, la[:1]))
wrong("A whole number of users, please: round down with `//` or `int`.", rounding=float)


@EXERCISE.mistake("You gave every user weights of their own: all users share one copy.")
def own_weights(device, weights, spare, tokens, layers):
    one = sum(cost * (tokens if w is None else min(tokens, w - 1)) for cost, w in layers)
    return int(device * (1 - spare) // (weights + one))


@EXERCISE.mistake("`spare` is a share of the device, not of what the weights leave: take it off first.")
def spare_of_the_rest(device, weights, spare, tokens, layers):
    return count((device - weights) * (1 - spare), 0, 0, tokens, layers)
