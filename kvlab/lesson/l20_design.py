"""Lesson 20's tasks: a cache that is designed for one is made, measured, and told what is wrong with it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import kvlab
from kvlab.measure.quality import Bench, Settings
from kvlab.measure.quality_stats import each_needle

from .chart_points import sixteen_bit_read
from .l20 import shares, thin

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Design = Mapping[str, Any]  # arguments of kvlab.Cache
TOKENS = 512  # of a trial's prompts
MEASURED = Settings(  # the first text and all questions of the recorded chart
    offsets=1, tokens=TOKENS, further=64, needle_tokens=(TOKENS,), evaluations=("kl", "needles")
)


@dataclass(frozen=True)
class Need:
    """What a task allows: shares of a cache in 16 bits, and whether all entries must stay."""

    about: str
    held: float
    read: float = 1.0
    whole: bool = False


TASKS: dict[str, Need] = {
    "go on": Need("keep the text going", held=0.25),
    "answer": Need("answer questions about any part of it", held=0.45, whole=True),
    "answer fast": Need("the same, and read little", held=0.45, read=0.25, whole=True),
}
FITS, REFUSED = "fits", "cannot be made"
UNKNOWN = "has an argument that kvlab.Cache does not know"
KNOWN = set(inspect.signature(kvlab.Cache).parameters)


def small() -> Decoder:
    """Ten layers with SmolLM2's KV heads and random weights: right bytes, in milliseconds."""
    return thin(10, 3, 64)


def verdict(design: Design, need: Need, tokens: int) -> str:
    """FITS, or the first thing that is wrong with a design: made and filled, not read off its arguments."""
    if set(design) - KNOWN:
        return UNKNOWN
    lm = small()
    try:
        held, read = shares(lm, design, tokens)
    except (TypeError, ValueError):
        return REFUSED
    if need.whole and _kept(lm, design, tokens) < tokens:
        return "entries are gone"
    if held > need.held:
        return "holds too much"
    return FITS if read <= need.read else "reads too much"


def judged(candidate: Callable[[str, int], Any], tokens: int) -> Any:
    """Task -> verdict on what `candidate(task, tokens)` makes for it; its result, where that is no design."""
    said = {}
    for task, need in TASKS.items():
        try:
            made = candidate(task, tokens)
        except ValueError:  # a policy that refuses its parameters
            said[task] = REFUSED
            continue
        if not isinstance(made, Mapping):
            return made
        said[task] = verdict(made, need, tokens)
    return said


def _kept(lm: Decoder, design: Design, tokens: int) -> int:
    cache = kvlab.Cache(lm, **design)
    lm(torch.zeros(1, tokens, dtype=torch.int64), cache, last_only=True)
    assert cache.ledger is not None  # it is filled
    return min(int(layer.stored(cache.ledger).min()) for layer in cache.layers)


@dataclass(frozen=True)
class Trial:
    """A design on the real model: the first text of the recorded chart, and all its questions."""

    held: float  # share of a cache in 16 bits
    read: float
    kl: float
    right: int
    asked: int
    remarks: tuple[str, ...]

    def __repr__(self) -> str:
        first = (
            f"holds {self.held:.0%} of 16 bits, a step reads {self.read:.0%}; KL {self.kl:.2f}, "
            f"{self.right} of {self.asked} numbers found"
        )
        return "\n".join([first, *(f"- {remark}" for remark in self.remarks)])


@dataclass(frozen=True)
class NotRun:
    """Why there was nothing to run."""

    text: str

    def __repr__(self) -> str:
        return self.text


def trial(lm: Decoder, design: Design | None, task: str = "go on") -> Trial | NotRun:
    """Run a design for some seconds, and say what it does, or why it cannot be run.

    Raises:
        LookupError: there is no such task.
    """
    if task not in TASKS:
        raise LookupError(f"there is no task {task!r}; there are {', '.join(TASKS)}.")
    if not isinstance(design, Mapping):
        return NotRun("not yet: a design is a dictionary, such as {'codec': kvlab.Int8()}.")
    try:
        kvlab.Cache(lm, **design)
    except (TypeError, ValueError) as error:
        return NotRun(f"This cache cannot be made: {error}")
    found = _bench(lm).run(lambda task: kvlab.Cache(lm, **design), lambda: None)
    length = TOKENS + (MEASURED.further + 1) / 2  # entries before a step, on average
    known = {**found, "family": "combined", "source": {"settings": vars(MEASURED)}}
    a_token = kvlab.plan(lm, TOKENS).bytes_per_token
    hits = each_needle(found["needles"])
    b = found["bytes"]
    held, read = (b["stored"] - b["uncoded"] / 2) / a_token, sixteen_bit_read(known) / a_token / length
    said = remarks(lm, design, TASKS[task], held, read, sum(hits), len(hits))
    return Trial(held, read, found["kl"][0], sum(hits), len(hits), said)


@functools.lru_cache(maxsize=1)
def _bench(lm: Decoder) -> Bench:
    """What all designs have in common, the model's reading of the prompts, is computed once."""
    return Bench(lm, MEASURED)


def remarks(
    lm: Decoder, design: Design, need: Need, held: float, read: float, right: int, asked: int
) -> tuple[str, ...]:
    """What is wrong with a design for a task, each in a sentence that names the knob."""
    eviction, selection = design.get("eviction"), design.get("selection")
    blocks = max(_block(lm, design.get("codec")), 1)
    said = []
    if held > need.held:
        said.append(f"Over the budget: it may hold {need.held:.0%} of 16 bits.")
        if selection is not None and eviction is None and design.get("codec") is None:
            said.append("A selection saves no memory: it frees nothing, and its index comes on top.")
    if eviction is not None and need.whole:
        said.append("An eviction frees entries for good, before anybody has asked for them.")
    if read > need.read:
        said.append(f"A step may read {need.read:.0%} of 16 bits.")
    if not said:
        said.append(f"Its bytes fit the task: {need.about}.")
    if selection is not None and blocks > 1:
        said.append(f"The codec encodes {blocks} tokens together: to read one, everything is decoded.")
    if eviction is not None and right < asked:
        said.append(f"{asked - right} numbers are lost: ask whether the eviction, or the bits, did it.")
    elif need.whole and right < asked / 2:
        said.append("Most numbers were not found: does a step read too few entries, or too few bits of each?")
    return tuple(said)


def _block(lm: Decoder, codec: Any) -> int:
    """Tokens that a codec, or one of a pair, encodes together in the last layer."""
    pair = codec if isinstance(codec, tuple) else (codec, codec)
    last = lm.config.num_hidden_layers - 1
    made = [c and c.at(last, name) for c, name in zip(pair, ("keys", "values"), strict=True)]
    return max(c.block for c in made if c) if any(made) else 1
