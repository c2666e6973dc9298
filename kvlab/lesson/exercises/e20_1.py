"""20.1: bytes held and bytes read, with all knobs turned."""

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("20.1", "Bytes held and bytes read", function="held_and_read", stub="""
def held_and_read(entries, dim, bits, page, pages):
    # one KV head after an eviction: `entries` are left
    # the key and the value of each have `dim` numbers of `bits` bits,
    #   scales included
    # each whole page of `page` entries has two bounds, vectors of
    #   `dim` numbers of 16 bits; entries behind the last whole page
    #   have none
    # a step reads all bounds, `pages` of the whole pages, and the
    #   entries behind the last whole page
    # return (bytes held, bytes read)
    ...
""", hint="First the bytes of one entry and of one page's bounds, then count.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    page, whole = draw.one_of([4, 8, 16]), draw.integer(6, 12)
    entries = page * whole + draw.integer(1, page - 1)
    return entries, draw.one_of([64, 128]), draw.one_of([3, 5, 16]), page, draw.integer(2, 4)


@EXERCISE.alternative
def alternative(entries, dim, bits, page, pages):
    rest = entries % page
    bounds = (entries - rest) / page * 2 * dim * 16
    number = 2 * dim * bits
    return ((entries * number + bounds) / 8, ((pages * page + rest) * number + bounds) / 8)


# The formula, but for what a wrong one forgets.
def variant(held_pages=False, bounds_held=1, bounds_read=1, rest=True, vectors=2, byte=8, chosen=False,
            bounds=2, coded=False, part=0):  # fmt: skip
    def held_and_read(entries, dim, bits, page, pages):
        whole = (entries + part * (page - 1)) // page
        entry, bound = vectors * dim * bits / byte, bounds * dim * (bits if coded else 16) / byte
        read = pages * page + (entries % page if rest else 0)
        held = read if held_pages else entries
        looked = pages if chosen else whole
        return held * entry + bounds_held * whole * bound, read * entry + bounds_read * looked * bound

    return held_and_read


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("Held is only what is read: a selection frees nothing, all entries stay.", held_pages=True)
wrong("The bounds are missing in what is read: choosing reads all of them.", bounds_read=0)
wrong("The bounds are missing in what is held: an index is stored, too.", bounds_held=0)
wrong("The bounds are missing altogether.", bounds_held=0, bounds_read=0)
wrong("Only the bounds of the chosen pages are read: to choose, the bounds of all are needed.", chosen=True)
wrong("The entries behind the last whole page are not read: no bound covers them, so they always are.",
      rest=False)  # fmt: skip
wrong("An entry is a key and a value: twice `dim` numbers.", vectors=1)
wrong("These are bits: eight of them make a byte.", byte=1)
wrong("A page has two bounds, the smallest and the largest of each channel.", bounds=1)
wrong("The bounds are not coded: their numbers have 16 bits.", coded=True)
wrong("The last page is not whole: it has no bounds, and its entries are read.", part=1, rest=False)
wrong("The last page is not whole: it has no bounds.", part=1)


@EXERCISE.mistake("These are the right numbers in the wrong order: (bytes held, bytes read).")
def swapped(*arguments):
    return alternative(*arguments)[::-1]
