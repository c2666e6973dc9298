"""Not a misuse but a false alarm: rounding, taken for a bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.models import in_dtype
from kvlab.doctor.gallery.tape import Stepper, Tape

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def in_bfloat16(lm: Decoder) -> Decoder:
    return in_dtype(lm, torch.bfloat16)


def in_float64(lm: Decoder) -> Decoder:
    return in_dtype(lm, torch.float64)


def step(cache: Tape, tokens: Tensor) -> Tensor:
    return cache(tokens)


class RoundingStepper(Stepper):
    """A right step; the code is the precision it computes in."""

    def __init__(self, lm: Decoder, code: Callable[[Decoder], Decoder]):
        super().__init__(code(lm), step)

    def to(self, dtype: torch.dtype) -> Stepper:
        """A plain step: the weights stay as the code has rounded them, and only the arithmetic is another."""
        return Stepper(in_dtype(self.lm, dtype), self.code)


def cache_against_recompute(lm: Decoder, ids: Tensor, dtypes: tuple[torch.dtype, ...]) -> dict[str, float]:
    """Largest |Δlogit| between a cache, token by token, and full recompute, for each dtype.

    A bug stays as large as it is in any precision; rounding shrinks with it.
    """
    errors = {}
    for dtype in dtypes:
        twin = in_dtype(lm, dtype)
        cache = Cache(twin)
        cached = torch.cat([twin(token, cache) for token in ids.split(1, dim=1)], dim=1)
        errors[str(dtype).removeprefix("torch.")] = float((cached - twin(ids)).double().abs().max())
    return errors


MISUSE = Misuse(
    "rounding",
    "Rounding is taken for a bug",
    symptom="In bfloat16 the cache gives other logits than recompute, and now and then another token.",
    why="A chunk and a single token go through differently ordered sums, and bfloat16 keeps 8 bits of each. "
    "Where two tokens are nearly as likely, that decides.",
    fix="Compare in float64: a bug stays as large as it was, rounding all but vanishes.",
    wrong_code=in_bfloat16,
    right_code=in_float64,
    make=RoundingStepper,
)
