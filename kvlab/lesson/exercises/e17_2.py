"""17.2: which blocks of keys a prompt needs."""

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("17.2", "Leave out whole blocks", function="blocks_to_read", stub="""
def blocks_to_read(reads, tokens, size):
    # reads(i, j): whether the pattern lets query i read key j;
    #   it may say yes to the future, j > i: that is never read
    # queries and keys 0 … tokens - 1 are cut into blocks of `size`,
    #   the last one may be shorter
    # return a list: for each block of queries, the blocks of keys
    #   that at least one of its queries reads, ascending
    ...
""", hint="Go through all pairs i, j with j <= i, and note the pair of their blocks.")  # fmt: skip


class Shape:
    """A pattern that prints as what it is: keys fewer than `near` away, and every `step`-th."""

    def __init__(self, near: int, step: int):
        self.near, self.step = near, step

    def __call__(self, i, j):
        return abs(i - j) < self.near or (i - j) % self.step == 0

    def __repr__(self):
        return f"reads(i, j) = |i - j| < {self.near} or (i - j) % {self.step} == 0"


@EXERCISE.inputs
def inputs(draw: Draw):
    size = draw.integer(2, 4)
    tokens = size * draw.integer(4, 6) + draw.integer(1, size - 1)  # the last block is short
    return Shape(draw.integer(1, size), draw.integer(5, 9)), tokens, size


@EXERCISE.alternative
def alternative(reads, tokens, size):
    found: list[set[int]] = [set() for _ in range(-(-tokens // size))]
    for i in range(tokens):
        for j in range(i + 1):
            if reads(i, j):
                found[i // size].add(j // size)
    return [sorted(blocks) for blocks in found]


# The plan, but for which queries are asked, which keys, how many blocks, and what a yes means.
def variant(ask=lambda q: q, last=lambda i, t: i + 1, count=lambda t, s: -(-t // s), any_=any):
    def blocks_to_read(reads, tokens, size):
        plan = []
        for b in range(count(tokens, size)):
            queries = ask(range(b * size, min((b + 1) * size, tokens)))
            chosen = []
            for other in range(-(-tokens // size)):
                keys = range(other * size, min((other + 1) * size, tokens))
                met = [reads(i, j) for i in queries for j in keys if j < last(i, tokens)]
                if met and any_(met):
                    chosen.append(other)
            plan.append(chosen)
        return plan

    return blocks_to_read


def wrong(message, function):
    EXERCISE.mistake(message)(function)


wrong("Only the first query of each block is asked: another of the block may read more.",
      variant(ask=lambda q: q[:1]))  # fmt: skip
wrong("Only the last query of each block is asked: an earlier one may read what it does not.",
      variant(ask=lambda q: q[-1:]))  # fmt: skip
wrong("Keys of the future are counted: the pattern may allow them, causality does not.",
      variant(last=lambda i, t: t))  # fmt: skip
wrong("The last, shorter block of queries is missing.", variant(count=lambda t, s: t // s))
wrong("A block is read where any pair meets; you ask that all pairs do.", variant(any_=all))
wrong("Every block of the past is read: that is a mask, and saves nothing.",
      lambda reads, t, s: [[*range(b + 1)] for b in range(-(-t // s))])  # fmt: skip
