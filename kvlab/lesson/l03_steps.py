"""What one step of decoding computes, reads and writes, naive and with a cache: the numbers of the stepper.

They follow from lengths and the model's shape alone (`grid`, `counters`, `total`); which words come out is
computed on the model beforehand (`trace`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

import kvlab
from kvlab.measure.bytes import cache_bytes
from kvlab.measure.flops import decode_flops, naive_flops

from .l03 import WithoutOwn, top_words
from .style import BACKGROUND, BLUE, GREEN, RUST

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

Side = Literal["naive", "cached"]


@dataclass(frozen=True)
class Cell:
    """What one step does with one token's Q, K or V; the same in every layer and head."""

    computed: bool = False
    again: bool = False  # computed, though an earlier step had the same numbers already
    read: bool = False  # by the newest token's query
    written: bool = False  # into the cache

    @property
    def marks(self) -> str:
        """The letters a cell shows."""
        return "".join(letter for letter, on in zip("crw", self._flags, strict=True) if on)

    @property
    def colour(self) -> str:
        """Rust where work is repeated, blue where it is new, green where it is read back, else none."""
        return RUST if self.again else BLUE if self.computed else GREEN if self.read else BACKGROUND

    @property
    def _flags(self) -> tuple[bool, bool, bool]:
        return self.computed, self.read, self.written


def grid(side: Side, prompt: int, step: int, own: bool = True) -> list[tuple[Cell, Cell, Cell]]:
    """Q, K and V of every token in step 0 (the prompt) or step 1, 2, … (one more token each).

    own=False: the cached side forgets that the newest token must see its own key and value.
    """
    tokens = prompt + step
    rows = []
    for i in range(tokens):
        new = step == 0 or i == tokens - 1
        if side == "naive":
            row = Cell(computed=True, again=not new), Cell(True, not new, read=True)
            rows.append((row[0], row[1], row[1]))
        elif new:
            seen = own or step == 0
            entry = Cell(computed=True, read=seen, written=True)
            rows.append((Cell(computed=True), entry, entry))
        else:
            rows.append((Cell(), Cell(read=True), Cell(read=True)))
    return rows


@dataclass(frozen=True)
class Counters:
    """What steps cost: token rows and FLOPs computed, bytes of keys and values read, and bytes then held."""

    rows: int
    flops: int
    read: int
    held: int

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.rows + other.rows,
            self.flops + other.flops,
            self.read + other.read,
            max(self.held, other.held),
        )


def counters(config: Config, side: Side, prompt: int, step: int, itemsize: int, own: bool = True) -> Counters:
    """The cost of one step; the cached prefill reads and writes what it has just computed."""
    tokens = prompt + step
    whole = cache_bytes(config, tokens, itemsize)
    if side == "naive" or step == 0:
        held = 0 if side == "naive" else whole
        return Counters(tokens, naive_flops(config, tokens).total, whole, held)
    read = whole if own else cache_bytes(config, tokens - 1, itemsize)
    return Counters(1, decode_flops(config, tokens).total, read, whole)


def total(config: Config, side: Side, prompt: int, step: int, itemsize: int, own: bool = True) -> Counters:
    """The cost of the prompt and all steps up to this one."""
    first = counters(config, side, prompt, 0, itemsize, own)
    return sum((counters(config, side, prompt, s, itemsize, own) for s in range(1, step + 1)), start=first)


@dataclass
class Trace:
    """A greedy text of a real model, and the next word at every step, with and without own K, V."""

    config: Config
    itemsize: int
    prompt: int
    tokens: list[str]  # the prompt's, then one for each step
    words: list[tuple[str, float]] = field(default_factory=list)  # after step 0, 1, …
    without: list[tuple[str, float]] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)  # largest |logit difference| of the two

    @property
    def steps(self) -> int:
        """Steps after the prompt."""
        return len(self.tokens) - self.prompt


def trace(lm: Decoder, text: str, steps: int = 6) -> Trace:
    """Decode `steps` tokens after `text`, and at each also ask a cache that hides the token's own K, V."""
    ids = lm.tokenizer.encode(text)
    right, wrong = kvlab.Cache(lm), kvlab.Cache(lm, store=WithoutOwn())
    found = Trace(lm.config, lm.dtype.itemsize, len(ids), [lm.tokenizer.token(i) for i in ids])
    given = torch.tensor([ids], device=lm.device)
    for step in range(steps + 1):
        exact, other = lm(given, right)[0, -1], lm(given, wrong)[0, -1]
        found.words += top_words(lm, exact, 1)
        found.without += top_words(lm, other, 1)
        found.errors.append(float((exact - other).abs().max()))
        given = exact.argmax().view(1, 1)
        if step < steps:
            found.tokens.append(lm.tokenizer.token(int(given)))
    return found
