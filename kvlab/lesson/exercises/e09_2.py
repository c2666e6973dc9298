"""09.2: few capacities for many texts."""

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "09.2",
    "Few capacities for many texts",
    function="bucket",
    stub="""
def bucket(prompt, new, smallest):
    # prompt: tokens of a prompt; new: tokens to generate
    # return the least of smallest, 2 · smallest, 4 · smallest, …
    # that has a slot for each token that is fed
    ...
""",
    cases=12,
    hint="A prompt of 10 and 7 new tokens feed 16: the last new one is never fed back.",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    smallest, doubled = draw.one_of([12, 16, 48]), draw.integer(0, 3)
    needed = smallest * 2**doubled + draw.one_of([-3, 0, 1, 5])
    new = draw.integer(1, needed - 2)
    return needed + 1 - new, new, smallest


@EXERCISE.alternative
def alternative(prompt, new, smallest):
    doublings = max(0, -(-(prompt + new - 1) // smallest) - 1).bit_length()
    return smallest << doublings


def variant(prompt, new, smallest, extra=-1, full=0, start=None, step=lambda room, smallest: 2 * room):
    room = smallest if start is None else start
    while room < prompt + new + extra + full:
        room = step(room, smallest)
    return room


def wrong(message, **how):
    EXERCISE.mistake(message)(lambda *given: variant(*given, **how))


wrong("One slot too many: the last new token is never fed back, so prompt + new − 1 are needed.", extra=0)
wrong("Room for the prompt only: the new tokens that are fed back take slots, too.", extra=-10_000)
wrong("Multiples of `smallest` make many shapes: double it until it fits.", step=lambda room, s: room + s)
wrong("Exactly what is needed is a new shape for nearly every text: double `smallest`.",
      step=lambda room, s: room + 1)  # fmt: skip
wrong("Powers of two, but not of `smallest`: begin there.", start=1)


@EXERCISE.mistake("You rounded down: the text would not fit. Take the least that does.")
def down(prompt, new, smallest):
    room = variant(prompt, new, smallest)
    return room if room == max(smallest, prompt + new - 1) else max(smallest, room // 2)
