"""17.1: which entries a new token reads under sinks and a window."""

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("17.1", "Sinks and a window", function="rows_to_read", stub="""
def rows_to_read(position, sinks, recent):
    # position: of the new token; entries 0 … position are in the cache
    # it reads the first `sinks` entries and the newest `recent`,
    #   its own entry among these
    # return the positions as a list: ascending, each one once
    ...
""", hint="Write down by hand what position 9 reads with 2 sinks and 3 recent: 0, 1, 7, 8, 9.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    # Short texts, where sinks and window meet, as often as long ones.
    sinks, recent = draw.integer(1, 4), draw.integer(1, 5)
    return draw.one_of([0, 1, 2, sinks + recent - 1, 12, 20]), sinks, recent


@EXERCISE.alternative
def alternative(position, sinks, recent):
    chosen = set(range(min(sinks, position + 1)))
    chosen |= {position - back for back in range(recent) if back <= position}
    return sorted(chosen)


# The rule, but for where the window begins and ends, and what happens to doubles and to the future.
def variant(begin=lambda p, s, r: p - r + 1, end=lambda p: p + 1, keep=lambda rows, p: sorted(set(rows))):
    def rows_to_read(position, sinks, recent):
        first = [*range(sinks)]
        newest = [*range(max(0, begin(position, sinks, recent)), end(position))]
        return keep([row for row in first + newest if row < end(position)], position)

    return rows_to_read


def wrong(message, function):
    EXERCISE.mistake(message)(function)


wrong("One entry too many: a window of `recent` that ends at `position` begins at position - recent + 1.",
      variant(begin=lambda p, s, r: p - r))  # fmt: skip
wrong("The new token does not read itself: its own entry is in the cache before it attends.",
      variant(end=lambda p: p, begin=lambda p, s, r: p - r))  # fmt: skip
wrong("Where the text is short, sinks and window meet, and you name an entry twice: it would weigh double.",
      variant(keep=lambda rows, p: sorted(rows)))  # fmt: skip
wrong("You read sinks that are not there yet: no position is larger than `position`.",
      lambda p, s, r: sorted({*range(s), *range(max(0, p - r + 1), p + 1)}))  # fmt: skip
wrong("The sinks are missing: without them the first tokens drop out of sight.",
      lambda p, s, r: [*range(max(0, p - r + 1), p + 1)])  # fmt: skip
wrong("The sinks are taken out of the window's budget: `recent` entries are read beside them.",
      variant(begin=lambda p, s, r: p - r + 1 + s))  # fmt: skip
