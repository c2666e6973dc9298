"""10.1: one token goes into a ring."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("10.1", "Slot and mask of a ring", function="turn", in_place=True, stub="""
def turn(keys, positions, k, position, window):
    # keys: [slots, head_dim], a ring; slots >= window
    # positions: int64 [slots], whose key lies there; -1: nobody's
    # k: [head_dim], the key of the token at `position`
    # write key and position into their slot, in place; return
    # visible: bool [slots], True where this token may look
    #   (itself and the window - 1 tokens before it)
    ...
""", hint="The check turns rings of several sizes; it compares `keys`, `positions` and mask.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    window = draw.integer(3, 5)
    slots = window + draw.one_of([1, 2])
    position = draw.one_of([2, slots + 2, 3 * slots + 1])
    positions = torch.full((slots,), -1)
    for p in range(max(0, position - slots), position):
        positions[p % slots] = p
    return draw.normal(slots, 4), positions, draw.normal(4), position, window


@EXERCISE.alternative
def alternative(keys, positions, k, position, window):
    keys[position % len(keys)], positions[position % len(keys)] = k, position
    distance = position - positions
    return (distance < window) & ~positions.eq(-1)


# The solution, but for where it writes and what it shows.
def ring(place=lambda p, slots, w, held: p % slots, shows=lambda held, p, w: (held >= 0) & (held > p - w),
         late=False, forgets=False, silent=False):  # fmt: skip
    def turn(keys, positions, k, position, window):
        before = shows(positions, position, window)
        slot = place(position, len(keys), window, positions)
        keys[slot] = k
        positions[slot] = positions[slot] if forgets else position
        return None if silent else before if late else shows(positions, position, window)

    return turn


@EXERCISE.mistake("You move all entries by one slot: right, but a copy of the whole ring for each token.")
def roll(keys, positions, k, position, window):
    if positions.min() >= 0:  # full: everything moves one slot forward
        keys[:-1], positions[:-1] = keys[1:].clone(), positions[1:].clone()
        slot = len(keys) - 1
    else:
        slot = position
    keys[slot], positions[slot] = k, position
    return (positions >= 0) & (positions > position - window)


def wrong(message, **how):
    EXERCISE.mistake(message)(ring(**how))


wrong("Slot = position mod window: this ring has more slots than that; divide by `len(keys)`.",
      place=lambda p, slots, w, held: p % w)  # fmt: skip
wrong("When the ring is full you always write the last slot: the newest token overwrites the one before it.",
      place=lambda p, slots, w, held: min(p, slots - 1))  # fmt: skip
wrong("You show window + 1 tokens: the window counts the token itself.",
      shows=lambda held, p, w: (held >= 0) & (held >= p - w))  # fmt: skip
wrong("You show one token too few: the window counts the token itself, and window − 1 before it.",
      shows=lambda held, p, w: (held >= 0) & (held > p - w + 1))  # fmt: skip
wrong("Slots that hold nobody are shown: −1 is no position.", shows=lambda held, p, w: held > p - w)
wrong("You mask by slot: in a ring the order of slots is not the order of tokens.",
      shows=lambda held, p, w: (held >= 0) & (torch.arange(len(held)) <= p % len(held)))  # fmt: skip
wrong("The mask has no window: everything the ring still holds is shown.", shows=lambda held, p, w: held >= 0)
wrong("You make the mask before you write: the token cannot see itself, but it can see the one it replaces.",
      late=True)  # fmt: skip
wrong("You write the key and not its position: the ledger still names the old token.", forgets=True)
wrong("Key and position are in place, but nothing is returned: the mask is missing.", silent=True)
