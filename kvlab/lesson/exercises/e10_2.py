"""10.2: a ring is turned back."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("10.2", "Back across the wrap, or not", function="crop", stub="""
def crop(positions, length, window):
    # positions: int64 [slots], what a ring holds; -1: free
    # go back to the first `length` tokens: the next one will be
    #   at position `length` and see window - 1 tokens before it
    # return the new positions, later tokens freed with -1;
    # raise ValueError if one of those it must see is gone
    ...
""", cases=12, hint="The check goes back a little, to the start, and too far.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    window = draw.integer(3, 5)
    slots = window + draw.integer(0, 3)
    seen = draw.one_of([slots - 1, 2 * slots + 1, 3 * slots])
    positions = torch.full((slots,), -1)
    for p in range(max(0, seen - slots), seen):
        positions[p % slots] = p
    spare = slots - window + 1  # so far back is all there
    return positions, max(0, seen - draw.one_of([1, spare, spare + 1, seen // 2, seen])), window


@EXERCISE.run
def run(candidate, positions, length, window):
    try:
        return candidate(positions.clone(), length, window)
    except ValueError:
        return "refused"


@EXERCISE.alternative
def alternative(positions, length, window):
    there = set(positions.tolist())
    if not there.issuperset(range(max(0, length - window + 1), length)):
        raise ValueError("gone")
    return torch.tensor([p if p < length else -1 for p in positions.tolist()])


# The solution, but for which positions it needs and what it frees.
def back(needs=lambda n, w: range(max(0, n - w + 1), n), frees=lambda held, n: held >= n, refuses=None):
    def crop(positions, length, window):
        gone = set(needs(length, window)) - set(positions.tolist())
        if gone if refuses is None else refuses(positions, length):
            raise ValueError("gone")
        return positions.masked_fill(frees(positions, length), -1)

    return crop


def wrong(message, **how):
    EXERCISE.mistake(message)(back(**how))


wrong("You never refuse: tokens that the next one must see have been overwritten.", refuses=lambda *_: False)
wrong("You refuse whenever the ring has wrapped: what matters is whether the window is still there.",
      refuses=lambda held, n: int(held.max()) >= len(held) and n <= int(held.max()))  # fmt: skip
wrong("You ask for one token too many: the next one sees window − 1 before it.",
      needs=lambda n, w: range(max(0, n - w), n))  # fmt: skip
wrong("You look for the last token only: all of its window must be there.",
      needs=lambda n, w: range(max(0, n - 1), n))  # fmt: skip
wrong("At the start there is less to see: positions below 0 are never missing.",
      needs=lambda n, w: (p if p >= 0 else -9 for p in range(n - w + 1, n)))  # fmt: skip
wrong("The token at `length` goes, too: it is the first of those that are taken back.",
      frees=lambda held, n: held > n)  # fmt: skip
wrong("You free by slot: after a wrap, later slots may hold earlier tokens.",
      frees=lambda held, n: torch.arange(len(held)) >= n)  # fmt: skip


@EXERCISE.mistake("You leave the freed slots out: the ring keeps its size, and a free slot holds −1.")
def shorter(positions, length, window):
    back()(positions, length, window)
    return positions[positions < length]
