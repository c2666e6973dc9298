"""20.2: a cache for a budget and a task."""

import kvlab
from kvlab.lesson.exercise import Draw, Exercise
from kvlab.lesson.l20_design import judged

EXERCISE = Exercise("20.2", "A cache for each task", function="design", stub="""
def design(task, tokens):
    # return a dictionary, arguments of kvlab.Cache for a prompt of
    #   `tokens` tokens: {"codec": ..., "eviction": ..., ...}
    # shares are of a cache in 16 bits. task is
    #   "go on": the text goes on; hold at most 25 %
    #   "answer": no entry may be lost; hold at most 45 %
    #   "answer fast": the same, and read at most 25 % a step
    ...
""", cases=2, hint="Each task gets its own dictionary. Which knob frees, which only reads less?")  # fmt: skip

INT4 = kvlab.Quantize(4, "token", group_size=32, residual=16)


@EXERCISE.inputs
def inputs(draw: Draw):
    return (16 * draw.integer(20, 28),)


EXERCISE.run(judged)


def always(**design):
    """The same cache for every task, but what its budgets are."""
    of_tokens = ("eviction", "selection")
    return lambda task, tokens: {k: v(tokens) if k in of_tokens else v for k, v in design.items()}


def quest(tokens):
    return kvlab.Quest(16, tokens // 8 // 16)


def snapkv(tokens):
    return kvlab.SnapKV(tokens // 4)


@EXERCISE.alternative
def alternative(task, tokens):
    if task == "go on":
        return {"codec": kvlab.Int8(), "eviction": kvlab.SinkRecent(4, tokens // 3)}
    codec = kvlab.Quantize(4, "token", group_size=64)
    return {"codec": codec} if task == "answer" else {"codec": codec, "selection": kvlab.Quest(16, 2)}


def wrong(message, function):
    EXERCISE.mistake(message)(function)


def blocks(task, tokens):
    codec = kvlab.KIVI(4, 32, residual=32)
    knobs = {"go on": {"eviction": snapkv(tokens)}, "answer fast": {"selection": quest(tokens)}}
    return {"codec": codec, **knobs.get(task, {})}


def no_room(task, tokens):
    if task == "go on":
        return {"codec": INT4, "eviction": kvlab.SnapKV(tokens // 20)}
    return {"codec": INT4} if task == "answer" else {"codec": INT4, "selection": quest(tokens)}


wrong("Nothing is coded: with 16 bits an entry no budget here is met. A selection frees nothing at all.",
      always(selection=quest))  # fmt: skip
wrong("One codec for every task: to hold a quarter, entries must go; to read less, a selection is needed.",
      always(codec=INT4))  # fmt: skip
wrong("The eviction is there for every task: what it freed cannot be asked for.",
      always(codec=INT4, eviction=snapkv))  # fmt: skip
wrong("Right but for the first: it holds too much. All entries in four bits are more than a quarter, and so "
      "is a quarter of them in 16 bits, with what an eviction notes: it takes both knobs.",
      always(codec=INT4, selection=quest))  # fmt: skip
wrong("Right but for the last: a step reads too much. Let a selection read few entries, and the codec "
      "work token by token: KIVI's keys lie in blocks, and to read one entry everything is decoded.",
      blocks)  # fmt: skip
wrong("The first cache cannot be made: its budget has no room for what the eviction always keeps.", no_room)
