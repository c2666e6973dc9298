"""14.2: canonical Huffman codes from their lengths."""

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "14.2",
    "Codes from their lengths",
    function="canonical",
    stub="""
def canonical(lengths):
    # lengths: a dict, symbol -> bits of its code, as {"a": 1, "b": 2, "c": 2}
    # In order of length, then of symbol, each code is the one before plus
    # one, with zeros behind it where it is longer. The first is all zeros.
    # return a dict, symbol -> code, as {"a": "0", "b": "10", "c": "11"}
    ...
""",
    hint="Write the codes below each other, in order: each is a binary number.",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    """Lengths of a random binary tree, and its symbols in any order."""
    leaves = [0]
    for _ in range(draw.integer(4, 7)):
        at = draw.integer(0, len(leaves) - 1)
        leaves[at : at + 1] = [leaves[at] + 1] * 2
    names = "abcdefgh"[: len(leaves)]
    return ({names[i]: leaves[i] for i in draw.shuffle(len(leaves))},)


def variant(key=lambda s, n: (n, s), step=1, shift=True, first=0, pad=True):
    def canonical(lengths):
        code, before, found = first, 0, {}
        for s in sorted(lengths, key=lambda s: key(s, lengths[s])):
            if shift:
                code <<= max(lengths[s] - before, 0)
            found[s] = format(code, f"0{lengths[s]}b" if pad else "b")
            code, before = code + step, lengths[s]
        return found

    return canonical


@EXERCISE.alternative
def alternative(lengths):
    found, total = {}, 0  # the code is the share of [0, 1) that lies before it
    deepest = max(lengths.values())
    for n, s in sorted((n, s) for s, n in lengths.items()):
        found[s] = format(total, f"0{deepest}b")[:n]
        total += 2 ** (deepest - n)
    return found


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong(
    "You go by symbol alone: shorter codes come first, and symbols decide among equals.", key=lambda s, n: s
)
wrong("Equal lengths go in the order of their symbols, not in the order they were given.", key=lambda s, n: n)
wrong("Where codes get longer, put zeros behind: shift to the left before you count on.", shift=False)
wrong("The longest codes come last, not first.", key=lambda s, n: (-n, s))
wrong("The first code is all zeros, not one.", first=1)
wrong("Leading zeros belong to a code: it must have as many digits as its length.", pad=False)
wrong("Add one from code to code: yours leaves some out or repeats them.", step=2)
