"""The texts that lossy caches are judged by: real prose, needles hidden in it, random tokens to copy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

CITIES = ("Paris", "Tokyo")  # of equal length in bytes and in tokens
KEY_NEEDLE = "\nThe pass key is {number}.\n"
CITY_NEEDLE = "\nThe special magic number for {city} is: {number}.\n"
KEY_QUESTION = "\n\nWhat is the pass key? The pass key is"
CITY_QUESTION = (
    "\n\nQuestion: What is the special magic number for {city}?\n"
    "Answer: The special magic number for {city} is:"
)


@dataclass(frozen=True)
class Haystack:
    """Contexts of one length, each with a pass key and two cities' numbers hidden in it."""

    ids: Tensor  # [rows, tokens]
    questions: dict[str, Tensor]  # "key" and "two" -> [rows, tokens], equally long in all rows
    answers: dict[str, list[str]]  # "key" and "two" -> five digits a row


def corpus() -> str:
    """700 KB of English prose that every CPython brings along: the documentation of its own language."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def corpus_digest() -> str:
    """Eight digits that tell one version of the corpus from another (it grows with Python)."""
    return hashlib.sha256(corpus().encode()).hexdigest()[:8]


def windows(lm: Decoder, rows: int, tokens: int) -> Tensor:
    """`rows` stretches of the corpus, evenly spaced and without overlap, `[rows, tokens]`.

    Each begins as the model's prompts do: with bos, where its tokenizer puts one.

    Raises:
        ValueError: the corpus is too short for so many.
    """
    start, text = _tokens(lm)
    taken = tokens - len(start)
    space = len(text) // rows
    if taken > space:
        raise ValueError(f"the corpus has {len(text)} tokens: too few for {rows} x {tokens}; ask for less.")
    return torch.tensor([start + text[i * space : i * space + taken] for i in range(rows)], device=lm.device)


def haystack(lm: Decoder, rows: int, tokens: int, seed: int = 0) -> Haystack:
    """`rows` contexts of `tokens` tokens; the depth of each needle moves from row to row.

    Raises:
        ValueError: `tokens` leaves no room for the needles.
    """
    start, text = _tokens(lm)
    draw = torch.Generator().manual_seed(seed)
    contexts, asked = [], []
    answers: dict[str, list[str]] = {"key": [], "two": []}
    for row in range(rows):
        numbers = [str(int(n)) for n in torch.randint(10_000, 100_000, (3,), generator=draw)]
        needles = [KEY_NEEDLE.format(number=numbers[0])]
        needles += [CITY_NEEDLE.format(city=c, number=n) for c, n in zip(CITIES, numbers[1:], strict=True)]
        pieces = [_encode(lm, needle) for needle in needles]
        room = tokens - len(start) - sum(map(len, pieces))
        if room < tokens // 4:
            raise ValueError(f"{tokens} tokens are too few for three needles in prose; use 256 or more.")
        first = int(torch.randint(0, len(text) - room, (1,), generator=draw))
        prose = text[first : first + room]
        depths = [int(room * ((row + 0.5) / rows + third / 3) % room) for third in range(3)]
        for depth, piece in sorted(zip(depths, pieces, strict=True), reverse=True):
            prose = prose[:depth] + piece + prose[depth:]
        contexts.append(start + prose)
        asked.append(CITIES[row % 2])
        answers["key"].append(numbers[0])
        answers["two"].append(numbers[1 + row % 2])
    questions = {"key": [_encode(lm, KEY_QUESTION)] * rows}
    questions["two"] = [_encode(lm, CITY_QUESTION.format(city=city)) for city in asked]
    ids = {name: torch.tensor(one, device=lm.device) for name, one in questions.items()}
    return Haystack(torch.tensor(contexts, device=lm.device), ids, answers)


def random_tokens(lm: Decoder, rows: int, tokens: int, seed: int = 0) -> Tensor:
    """Tokens without any meaning, `[rows, tokens]`: only what was seen can help to repeat them."""
    draw = torch.Generator().manual_seed(seed)
    low = lm.config.vocab_size // 50  # the first ones are control tokens and single bytes
    return torch.randint(low, lm.config.vocab_size, (rows, tokens), generator=draw).to(lm.device)


def beginning(lm: Decoder) -> list[int]:
    """What the model's tokenizer puts in front of every text: bos, or nothing."""
    return [] if lm.tokenizer is None else list(lm.tokenizer.encode(""))


def _encode(lm: Decoder, text: str) -> list[int]:
    return list(lm.tokenizer.encode(text, bos=False))


def _tokens(lm: Decoder) -> tuple[list[int], list[int]]:
    if lm.tokenizer is None:  # a model of which only the shape is known: bytes do
        return [], [byte % lm.config.vocab_size for byte in corpus().encode()]
    return beginning(lm), _encode(lm, corpus())
