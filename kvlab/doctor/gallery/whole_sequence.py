"""The whole text is passed at every step, though the cache appends what it is given."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape


def wrong(cache: Tape, tokens: Tensor) -> Tensor:
    whole = torch.cat([cache.ids.expand(len(tokens), -1), tokens], dim=1)
    return cache(whole)[:, -tokens.shape[1] :]


def right(cache: Tape, tokens: Tensor) -> Tensor:
    return cache(tokens)


APPENDED = Misuse(
    "whole-sequence-appended",
    "The whole sequence goes into a cache that appends",
    symptom="The text begins again, or the answer is to a text said twice. Every step takes longer, "
    "and the cache grows with the square of the text.",
    why="The cache holds the text already; what is passed comes after it. The model reads the text, then "
    "the text and a token, then the text and two tokens, all in a row.",
    fix="Pass only the new tokens to a cache that appends.",
    wrong_code=wrong,
    right_code=right,
)
