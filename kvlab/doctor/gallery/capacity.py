"""A store of fixed size, when the text grows past it."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape

CAPACITY = 16  # slots: few, so that a short text shows it


def clamp(cache: Tape, tokens: Tensor) -> Tensor:
    positions = cache.seen + torch.arange(tokens.shape[1])
    room = max(CAPACITY - tokens.shape[1], 0)
    if cache.length > room:
        cache.keep(range(room))
    return cache(tokens, positions)


def slide(cache: Tape, tokens: Tensor) -> Tensor:
    positions = cache.seen + torch.arange(tokens.shape[1])
    room = max(CAPACITY - tokens.shape[1], 0)
    if cache.length > room:
        cache.keep(range(cache.length - room, cache.length))
    return cache(tokens, positions)


def grow(cache: Tape, tokens: Tensor) -> Tensor:
    positions = cache.seen + torch.arange(tokens.shape[1])
    return cache(tokens, positions)


OVERFLOW = Misuse(
    "static-overflow",
    "Beyond the capacity, every token is written to the last slot",
    symptom="Exact up to the capacity. From there on the text forgets what it said just before, and ends in "
    "one sign.",
    why="The slot index is clamped to the last slot, so each new entry replaces the one before. The "
    "beginning stays, the newest tokens are lost.",
    fix="Make the store as large as prompt and new tokens, or let it grow; a full store refuses the next "
    "token.",
    wrong_code=clamp,
    right_code=grow,
)

BECOMES_WINDOW = Misuse(
    "capacity-becomes-window",
    "Beyond the capacity, the oldest entry is overwritten",
    symptom="Exact up to the capacity. Then the first tokens are gone, and a model that leans on them begins "
    "again or falls apart.",
    why="A ring keeps the newest entries. That is right for a layer trained with such a window; elsewhere "
    "the capacity has become a window that the model never knew.",
    fix="A ring only where the model has a window, and as long as that window; elsewhere a store for all "
    "tokens.",
    wrong_code=slide,
    right_code=grow,
)
