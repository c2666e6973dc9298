"""What the translator learns from: numbers spelled by num2words, and those that training never sees."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache

from kvlab.translation.languages import LARGEST
from kvlab.zoo.errors import need

ALWAYS_SEEN = 100  # 0 to 100 have words, or joints of words, that occur nowhere else
HELD_OUT_IN = 20  # of the other numbers, one in so many is held out


def held_out(number: int) -> bool:
    """Whether training never sees this number, in any language. Decided by its hash, the same everywhere."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return number > ALWAYS_SEEN and int.from_bytes(digest[:4], "big") % HELD_OUT_IN == 0


@cache
def split() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers from 0 to `LARGEST`: those to learn from, and those held out."""
    every = range(LARGEST + 1)
    return tuple(n for n in every if not held_out(n)), tuple(n for n in every if held_out(n))


@lru_cache(maxsize=400_000)
def spelled(number: int, language: str) -> str:
    """The number in words.

    Raises:
        ModelError: num2words is not installed; only training, tests and lessons need it.
    """
    return need("num2words").num2words(number, lang=language)
