"""00.2: the naive loop that makes text."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.lesson.exercise import Candidate, Draw, Exercise

EXERCISE = Exercise("00.2", "The loop that makes text", function="continue_text", stub="""
def continue_text(logits_of, ids, count):
    # logits_of(ids) -> [len(ids), vocab]; ids: a list of ints
    # -> a list of the `count` ids that follow, greedily
    ...
""", hint="Each turn: all ids so far go in, one id comes out and is appended.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw) -> tuple[Tensor, list[int], int]:
    vocab = draw.integer(9, 14)
    return draw.normal(vocab, vocab), draw.shuffle(vocab)[: draw.integer(2, 4)], draw.integer(3, 6)


@EXERCISE.run
def run(candidate: Candidate, table: Tensor, ids: list[int], count: int) -> list[object]:
    """The new ids, and the prompt afterwards: it must be as it was."""

    def logits_of(given: list[int]) -> Tensor:  # a model whose every row depends on all tokens before it
        given = list(map(int, given))  # ids that argmax left as tensors are ids, too
        return table[given].cumsum(0) + torch.arange(len(given))[:, None] * table.roll(1, 0)[given]

    return [candidate(logits_of, ids, count), ids]


@EXERCISE.alternative
def alternative(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    new = [int(torch.argmax(logits_of(ids)[len(ids) - 1]))]
    return new if count == 1 else new + alternative(logits_of, ids + new, count - 1)


@EXERCISE.mistake(
    "After the first turn you passed only the newest token. This model remembers nothing between calls: "
    "all ids must go in each time."
)
def newest_only(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    new = [int(logits_of(ids)[-1].argmax())]
    while len(new) < count:
        new.append(int(logits_of(new[-1:])[-1].argmax()))
    return new


@EXERCISE.mistake("You passed the prompt alone at every turn: append each new id to what goes in next.")
def never_appends(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    return [int(logits_of(ids)[-1].argmax()) for _ in range(count)]


@EXERCISE.mistake("You returned the prompt too: return only the new ids.")
def with_prompt(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    return [*ids, *alternative(logits_of, ids, count)]


@EXERCISE.mistake("Right ids, but you appended to the caller's list. Start with a copy: `ids = list(ids)`.")
def in_place(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    new = alternative(logits_of, ids, count)
    ids.extend(new)
    return new


@EXERCISE.mistake("You appended to the caller's list and returned it all: copy it, return the new ids.")
def caller_s_list(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    ids.extend(alternative(logits_of, ids, count))
    return ids


@EXERCISE.mistake("You took the first row of logits each time; the last row speaks of the next token.")
def first_row(logits_of: Candidate, ids: list[int], count: int) -> list[int]:
    return [int(logits_of(ids)[0].argmax()) for _ in range(count)]
