"""The last token only, with positions that start at 0 in every call."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape


def wrong(cache: Tape, tokens: Tensor) -> Tensor:
    positions = torch.arange(tokens.shape[1])
    return cache(tokens, positions)


def right(cache: Tape, tokens: Tensor) -> Tensor:
    positions = cache.seen + torch.arange(tokens.shape[1])
    return cache(tokens, positions)


MISUSE = Misuse(
    "positions-restart",
    "Positions restart at 0 in every call",
    symptom="The first new token is right. Then the text loops, or turns into another text.",
    why="The new token is rotated to position 0. To every head the prompt now lies in the future, at "
    "distances that never occurred in training; what was said is still there to be read.",
    fix="Positions go on from the number of tokens seen so far.",
    wrong_code=wrong,
    right_code=right,
)
