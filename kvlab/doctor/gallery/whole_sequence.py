"""The whole text is passed at every step: to a cache that appends, and under the wrong flag."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape


def append_whole(cache: Tape, tokens: Tensor) -> Tensor:
    whole = torch.cat([cache.ids.expand(len(tokens), -1), tokens], dim=1)
    return cache(whole)[:, -tokens.shape[1] :]


def append_new(cache: Tape, tokens: Tensor) -> Tensor:
    return cache(tokens)


APPENDED = Misuse(
    "whole-sequence-appended",
    "The whole sequence goes into a cache that appends",
    symptom="The text begins again, or the answer is to a text said twice. Every step takes longer, and the "
    "cache grows with the square of the text.",
    why="The cache holds the text already; what is passed comes after it. The model reads the text, then the "
    "text and a token, then the text and two tokens, all in a row.",
    fix="Pass only the new tokens to a cache that appends.",
    wrong_code=append_whole,
    right_code=append_new,
)


def flagged_as_new(cache: Tape, tokens: Tensor) -> Tensor:
    whole = torch.cat([cache.ids.expand(len(tokens), -1), tokens], dim=1)
    positions = cache.seen + torch.arange(whole.shape[1])
    new = slice(-tokens.shape[1], None)
    return cache(whole[:, new], positions[new])


def flagged_as_whole(cache: Tape, tokens: Tensor) -> Tensor:
    whole = torch.cat([cache.ids.expand(len(tokens), -1), tokens], dim=1)
    positions = torch.arange(whole.shape[1])
    new = slice(-tokens.shape[1], None)
    return cache(whole[:, new], positions[new])


FLAGGED = Misuse(
    "whole-sequence-with-new-only-flag",
    "The whole sequence, flagged as new tokens only",
    symptom="Fluent for a while, then it repeats itself or jumps. Each new token lies about twice as far "
    "from the prompt as it should.",
    why="Told that it gets new tokens only, the model counts positions from the end of the cache. The whole "
    "sequence starts at 0 all the same, so its last token lands at about twice its place.",
    fix="Flag and input must agree: the whole sequence without the flag, or the new tokens with it.",
    wrong_code=flagged_as_new,
    right_code=flagged_as_whole,
)
