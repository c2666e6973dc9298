"""Masks that are right without a cache and wrong with one."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape


def top_left(cache: Tape, tokens: Tensor) -> Tensor:
    new, slots = tokens.shape[1], cache.length + tokens.shape[1]
    mask = torch.ones(new, slots, dtype=torch.bool).tril()
    return cache(tokens, mask=mask)


def bottom_right(cache: Tape, tokens: Tensor) -> Tensor:
    new, slots = tokens.shape[1], cache.length + tokens.shape[1]
    mask = torch.ones(new, slots, dtype=torch.bool).tril(slots - new)
    return cache(tokens, mask=mask)


TOP_LEFT = Misuse(
    "mask-top-left",
    "The causal triangle is aligned top-left",
    symptom="After the first new token the text loses all connection with the prompt.",
    why="One new query over many keys is a mask of one row. Aligned top-left, that row shows the first key "
    "alone: query i sees keys 0 … i, as if there were no past. PyTorch's `is_causal=True` is aligned so.",
    fix="Align the triangle bottom-right: the last query sees every key. One new token needs no mask.",
    wrong_code=top_left,
    right_code=bottom_right,
)
