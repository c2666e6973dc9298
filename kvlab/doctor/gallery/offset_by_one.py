"""Every decoded token sits one place too far."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape


def wrong(cache: Tape, tokens: Tensor) -> Tensor:
    start = cache.seen + 1 if cache.seen else 0
    return cache(tokens, start + torch.arange(tokens.shape[1]))


def right(cache: Tape, tokens: Tensor) -> Tensor:
    start = cache.seen
    return cache(tokens, start + torch.arange(tokens.shape[1]))


MISUSE = Misuse(
    "offset-by-one",
    "New tokens sit one position too far",
    symptom="Fluent text, often the very same tokens. The logits are wrong all the same, and a longer text "
    "drifts away from the right one.",
    why="The first new token's position is the number of tokens before it, as counting starts at 0. One more "
    "leaves a gap after the prompt: every distance across it is one too long.",
    fix="The first new token goes to position `tokens seen`, not `tokens seen + 1`.",
    wrong_code=wrong,
    right_code=right,
)
