"""Keys cached before rotation are read as if they had been rotated."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape
from kvlab.model.rotary import angles, rotate


def store_plain(cache: Tape, tokens: Tensor) -> Tensor:
    new = tokens.shape[1]
    positions = cache.seen + torch.arange(new)
    logits = cache(tokens, positions)
    back = angles(-positions.to(cache.lm.device), cache.frequencies, cache.lm.dtype)
    for layer in cache.layers:
        assert layer.keys is not None
        past, plain = layer.keys[:, :, :-new], rotate(layer.keys[:, :, -new:], *back)
        layer.keys = torch.cat([past, plain], dim=2)
    return logits


def store_rotated(cache: Tape, tokens: Tensor) -> Tensor:
    new = tokens.shape[1]
    positions = cache.seen + torch.arange(new)
    return cache(tokens, positions)


MISUSE = Misuse(
    "mixed-rotation",
    "Keys are stored before rotation and read as if rotated",
    symptom="The first new token is right. Soon one word or sign comes over and over.",
    why="Queries are rotated to their positions and the keys they meet lie at position 0, all of them: what "
    "was said is known, when it was said is not.",
    fix="One rule for the whole cache: rotate before storing, or store plain keys and rotate at each read.",
    wrong_code=store_plain,
    right_code=store_rotated,
)
