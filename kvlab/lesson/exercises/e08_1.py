"""08.1: append in place, within a capacity."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("08.1", "Append in place, or refuse", function="Slots", stub="""
class Slots:
    def __init__(self, heads, capacity, head_dim):
        self.data = torch.zeros(heads, capacity, head_dim)
        self.used = 0

    def append(self, x):
        # x: [heads, tokens, head_dim], one token or more
        # write it behind the used slots, in place
        # no room for all of it: raise ValueError, change nothing
        ...
""", hint="The check appends chunks, some too large, and looks at `data` and `used` after each.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    heads, head_dim, first, second = draw.integer(1, 3), draw.one_of([2, 4]), draw.integer(2, 5), 2
    sizes = [first, second, draw.integer(4, 6), 1, 3, 2, 1]  # 3 slots are left for 4 … 6, then 2 for 3
    return heads, first + second + 3, head_dim, [draw.normal(heads, n, head_dim) for n in sizes]


@EXERCISE.run
def run(candidate, heads, capacity, head_dim, chunks):
    slots, seen = candidate(heads, capacity, head_dim), []
    address = slots.data.data_ptr()
    for x in chunks:
        try:
            slots.append(x)
            seen.append("taken")
        except ValueError:
            seen.append("refused")
        seen += [slots.used, slots.data.clone(), slots.data.data_ptr() == address]
    return seen


# The class, but for when it refuses, where it writes, whether it cuts or grows, and when it counts.
def variant(refuse=lambda u, n, room: u + n > room, place=lambda u, *_: u, cut=0, early=0, grow=0, slices=0):
    class Slots:
        def __init__(self, heads, capacity, head_dim):
            self.data, self.used = torch.zeros(heads, capacity, head_dim), 0

        def append(self, x):
            used, n, room = self.used, x.shape[1], self.data.shape[1]
            self.used += early * n
            if refuse(used, n, room):
                raise ValueError("full")
            n = min(n, room - used) if cut else n
            if grow:
                self.data = torch.cat((self.data[:, :used], x), dim=1)
                room = self.data.shape[1]
            if slices:
                self.data[:, used : used + n] = x
            self.data[:, (place(used, n, room) + torch.arange(n)) % room] = x[:, :n]
            self.used = used + n

    return Slots


EXERCISE.alternative(variant())


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


last, never = {"place": lambda used, n, room: min(used, room - n)}, {"refuse": lambda *_: False}
wrong("Nothing is checked: what does not fit ends in PyTorch's error, not in yours.", **never, slices=1)
wrong("When it is full you overwrite the last slots: those tokens are lost.", **never, **last)
wrong("When it is full it starts at slot 0 again: a ring. The oldest tokens are lost.", **never)
wrong("It grows instead of refusing: `data` is a larger tensor. A capacity is a promise.", **never, grow=1)
wrong("`used` moves before the check: after a refused chunk it counts tokens that are not there.", early=1)
wrong("You write every chunk at slot 0: it belongs behind the used ones.", place=lambda *_: 0)
wrong("You cut off what does not fit: all goes in, or nothing.", refuse=lambda u, _, r: u == r, cut=1)
wrong("One too strict: the last slot may be used, so refuse only `>`.", refuse=lambda u, n, r: u + n >= r)
