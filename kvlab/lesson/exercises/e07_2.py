"""07.2: how many users a device serves."""

import math

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "07.2",
    "Fit a service",
    function="users",
    stub="""
def users(device, weights, spare, tokens, layers):
    # device, weights: bytes; spare: the share of the device that
    #   must stay free for activations (0.1: a tenth)
    # tokens: of each user; all users share the weights
    # layers: a list of (bytes a token, window), one for each layer;
    #   window None: keeps all, else at most window - 1 tokens
    # return how many users fit, a whole number
    ...
""",
    rtol=0,
    atol=0,
    hint="First the bytes that are left for caches, then the bytes of one user's cache, layer by layer.",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    cost, window = draw.integer(20, 60) * 1024, draw.integer(300, 900)
    sliding, full = draw.integer(4, 9), draw.integer(3, 6)
    tokens = draw.integer(2000, 5000)
    layers = [(cost, window)] * sliding + [(cost, None)] * full
    one = cost * (sliding * (window - 1) + full * tokens)
    # Room for a few users and a part of one more, so that rounding and each omission show.
    weights, fitting, spare = one * draw.integer(2, 4), draw.integer(9, 14), draw.one_of([0.1, 0.2])
    device = int((weights + (fitting + 0.6) * one) / (1 - spare))
    return device, weights, spare, tokens, layers


@EXERCISE.alternative
def alternative(device, weights, spare, tokens, layers):
    count = 0
    while True:
        held = weights
        for cost, window in layers:
            kept = tokens if window is None or window > tokens else window - 1
            held += (count + 1) * cost * kept
        if held > device - spare * device:
            return count
        count += 1


def count(device, weights, spare, tokens, layers, windows=True, rounding=math.floor):
    kept = [tokens if w is None or not windows else min(tokens, w - 1) for _, w in layers]
    one = sum(cost * n for (cost, _), n in zip(layers, kept, strict=True))
    return rounding((device * (1 - spare) - weights) / one)


def wrong(message, change=lambda *given: given, **how):
    EXERCISE.mistake(message)(lambda *given: count(*change(*given), **how))


wrong("The windows are missing: a layer with a window keeps at most window - 1 tokens.", windows=False)
wrong(
    "Nothing is left for activations: take `spare` off the device.", lambda d, w, s, t, la: (d, w, 0, t, la)
)
wrong("The weights are missing: they lie on the device, too.", lambda d, w, s, t, la: (d, 0, s, t, la))
wrong("You rounded up: the last user does not fit any more.", rounding=math.ceil)
wrong("You counted one layer: sum over all.", lambda d, w, s, t, la: (d, w, s, t, la[:1]))
wrong("A whole number of users, please: round down with `//` or `int`.", rounding=float)


@EXERCISE.mistake("You gave every user weights of their own: all users share one copy.")
def own_weights(device, weights, spare, tokens, layers):
    one = sum(cost * (tokens if w is None else w - 1) for cost, w in layers)
    return int(device * (1 - spare) // (weights + one))
