"""00.1: from logits to the next token."""

from __future__ import annotations

from torch import Tensor

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "00.1",
    "The next token",
    function="next_id",
    stub="""
def next_id(logits):
    # logits: [tokens, vocab] -> the id of the next token, an int
    ...
""",
    hint="One row of logits stands for each token given; which of them speaks of the next one?",
)


@EXERCISE.inputs
def inputs(draw: Draw) -> tuple[Tensor]:
    return (draw.normal(draw.integer(2, 6), draw.integer(7, 12)),)


@EXERCISE.alternative
def alternative(logits: Tensor) -> int:
    row = logits[len(logits) - 1].tolist()
    return row.index(max(row))


@EXERCISE.mistake(
    "You took the first row. Row t scores what follows token t: the next token's scores are in the last row."
)
def first_row(logits: Tensor) -> int:
    return int(logits[0].argmax())


@EXERCISE.mistake(
    "You searched all rows at once: the index counts through the whole table. Take the last row first."
)
def whole_table(logits: Tensor) -> int:
    return int(logits.argmax())


@EXERCISE.mistake(
    "You chose a token for every row. The earlier rows speak of tokens that are there already: take the last."
)
def every_row(logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1)


@EXERCISE.mistake(
    "You returned the largest logit itself. The id of a token is the place of its logit: argmax, not max."
)
def the_score(logits: Tensor) -> float:
    return float(logits[-1].max())


@EXERCISE.mistake("You took the smallest logit: that is the least likely token. Take the largest.")
def smallest(logits: Tensor) -> int:
    return int(logits[-1].argmin())


@EXERCISE.mistake(
    "You searched down the columns: that names a row for each token of the vocabulary. Search the last row."
)
def down_the_columns(logits: Tensor) -> Tensor:
    return logits.argmax(dim=0)
