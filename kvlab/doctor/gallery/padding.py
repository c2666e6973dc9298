"""A batch padded on the left: without its mask, and without its positions."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.learned import LearnedStepper
from kvlab.doctor.gallery.scenes import padded
from kvlab.doctor.gallery.tape import PaddedStepper, Tape
from kvlab.doctor.loose import causal_mask


def columns(cache: Tape, mask: Tensor) -> Tensor:
    """`[batch, slots]`: which columns hold a token, the new ones included."""
    return torch.cat([cache.real.expand(len(mask), -1), mask], dim=1)


def in_text(cache: Tape, mask: Tensor) -> Tensor:
    """`[batch, new]`: the place of each new token among the tokens of its row."""
    count = columns(cache, mask).cumsum(dim=1) - 1
    return count[:, -mask.shape[1] :].clamp(min=0)


def in_batch(cache: Tape, mask: Tensor) -> Tensor:
    """`[new]`: the column of each new token, padding counted."""
    return cache.seen + torch.arange(mask.shape[1])


def visible(cache: Tape, mask: Tensor) -> Tensor:
    """`[batch, 1, new, slots]`: causal, and never a column of padding."""
    held = columns(cache, mask)
    return causal_mask(mask.shape[1], held.shape[1], mask.device) & held[:, None, None]


def unmasked(cache: Tape, tokens: Tensor, mask: Tensor) -> Tensor:
    return cache(tokens, in_text(cache, mask))


def masked(cache: Tape, tokens: Tensor, mask: Tensor) -> Tensor:
    return cache(tokens, in_text(cache, mask), visible(cache, mask))


WITHOUT_MASK = Misuse(
    "padding-without-mask",
    "Left padding without a mask",
    symptom="The longest prompt of a batch is answered as if it were alone; shorter ones get other, often "
    "fluent answers.",
    why="Padding is a token like any other. Without a mask its keys are attended to, and being first in the "
    "row it takes the place of the attention sink.",
    fix="Pass the mask, at every step and over the whole row, so that no query sees a padding column.",
    wrong_code=unmasked,
    right_code=masked,
    scene=padded,
    make=PaddedStepper,
)


def counted_by_column(cache: Tape, tokens: Tensor, mask: Tensor) -> Tensor:
    return cache(tokens, in_batch(cache, mask), visible(cache, mask))


def counted_by_token(cache: Tape, tokens: Tensor, mask: Tensor) -> Tensor:
    return cache(tokens, in_text(cache, mask), visible(cache, mask))


WITHOUT_POSITIONS = Misuse(
    "padding-without-positions",
    "Left padding counted in the positions",
    symptom="With learned positions, shorter prompts of a batch get other answers than alone. With rotary "
    "ones nothing happens.",
    why="Padding moves every token of its row by the same amount. Rotary scores depend on distances, which "
    "stay; a learned table has another row for every position.",
    fix="Count positions among the real tokens: `mask.cumsum(-1) - 1`.",
    wrong_code=counted_by_column,
    right_code=counted_by_token,
    scene=padded,
    make=LearnedStepper,
)
