"""Batches of pairs to learn from: one number, spelled in two languages."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from kvlab.translation.decode import batch
from kvlab.translation.numbers import held_out, spelled, split
from kvlab.translation.words import Words

IGNORED = -100  # a target that costs nothing: padding


@dataclass(frozen=True)
class Pairs:
    """A batch, as the loss wants it; every row is padded on the right."""

    source: Tensor  # [batch, source] ids
    mask: Tensor  # [batch, source] False: padding
    given: Tensor  # [batch, target] start token, then the words
    wanted: Tensor  # [batch, target] the words, then the end token; IGNORED: padding


def directions(words: Words) -> list[tuple[str, str]]:
    """Every ordered pair of the languages."""
    return list(permutations(words.languages, 2))


def draw_number(rng: random.Random) -> int:
    """A number that is not held out; half of them have one to five digits, each with equal chance."""
    while True:
        number = rng.choice(split()[0]) if rng.random() < 0.5 else rng.randrange(10 ** rng.randint(1, 5))
        if not held_out(number):
            return number


def draw(words: Words, rng: random.Random, size: int) -> Pairs:
    """A batch of `size` pairs in random directions."""
    chosen = rng.choices(directions(words), k=size)
    return pairs(words, [(draw_number(rng), of, to) for of, to in chosen])


def pairs(words: Words, rows: list[tuple[int, str, str]]) -> Pairs:
    """The batch of `rows`: number, language of the source, language of the target."""
    source, mask = batch([_ids(words, number, of) for number, of, _ in rows])
    targets = [_ids(words, number, to) for number, _, to in rows]
    given, real = batch([[words.start(to), *ids] for (*_, to), ids in zip(rows, targets, strict=True)])
    wanted, _ = batch([[*ids, words.end] for ids in targets])
    return Pairs(source, mask, given, torch.where(real, wanted, IGNORED))


def _ids(words: Words, number: int, language: str) -> list[int]:
    return [words.ids[word] for word in words.languages[language].split(spelled(number, language))]
