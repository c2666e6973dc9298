"""Lesson 10: the bytes of a hybrid cache, counted on real caches, planned, and held by transformers.

What passes the window is in `l10_reach`, the ring in `l10_ring`, transformers in `l10_today` and `l10_old`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics  # real English prose that every Python brings along
from typing import TYPE_CHECKING

import torch

import kvlab
from kvlab.model.config import Config
from kvlab.zoo.tokenizer import ByteTokenizer

from .l07 import filled
from .session import device
from .style import RUST
from .tables import card, inline

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

NAME = "gemma3-270m"
LARGEST = 4096  # capacity of the cache that is made once for all texts


# --- the model ------------------------------------------------------------------------------------------


@functools.cache
def model() -> Decoder:
    """Gemma 3 270M in float32 on `device()`; where its weights can't be had, its shape with random ones.

    Bytes, positions and shapes are then the same; a card says that words and distances mean nothing.
    """
    try:
        return kvlab.load(NAME, device=device(), dtype=torch.float32)
    except (kvlab.ModelError, OSError) as error:
        _say_fallback(error)
        lm = kvlab.random(NAME, device=device(), dtype="float32")
        lm.tokenizer = _Bytes()
        return lm


class _Bytes(ByteTokenizer):
    """Text for a model that has none: bytes go in, and whatever comes out can be shown."""

    def token(self, index: int) -> str:
        return super().token(index) if index <= 258 else f"<{index}>"


def _say_fallback(error: Exception) -> None:
    from IPython.display import display

    text = (
        f"The weights of Gemma 3 270M can't be had: {error}\nThis lesson goes on with random weights in the "
    )
    text += "same shape: bytes, shapes and positions are right, but words and distances mean nothing."
    display({"text/html": card(inline(text), RUST), "text/plain": text}, raw=True)


def prose(lm: Decoder, tokens: int, name: str = "typesseq") -> list[int]:
    """The first `tokens` ids of a chapter of Python's own documentation."""
    ids: list[int] = lm.tokenizer.encode(topics[name][: 12 * tokens])[:tokens]
    return ids


# --- bytes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One way to keep the past: how kvlab makes it, and which of its two counts is meant."""

    store: str
    capacity: Callable[[int], int | None]  # from the number of tokens
    allocated: bool  # a static form is judged by what it takes, not by what is in it

    def of(self, counted: kvlab.Cache) -> int:
        """Bytes of a real cache."""
        return counted.allocated_bytes if self.allocated else counted.nbytes


FORMS = {
    "dynamic, sliding": Form("hybrid", lambda n: None, allocated=False),
    "dynamic, all full": Form("dynamic", lambda n: None, allocated=False),
    "static, capacity = tokens": Form("hybrid", lambda n: n, allocated=True),
    "static, capacity 4,096": Form("hybrid", lambda n: LARGEST, allocated=True),
}


def planned(config: Config, name: str, tokens: int) -> int:
    """Bytes of a form by `kvlab.plan`, float32."""
    form = FORMS[name]
    plan = kvlab.plan(config, tokens, bits=32, store=form.store, capacity=form.capacity(tokens))
    return plan.allocated_bytes if form.allocated else plan.cache_bytes


def counted(config: Config, name: str, tokens: int) -> int:
    """Bytes of a form counted on a real cache of that shape, filled with random entries."""
    form = FORMS[name]
    return form.of(filled(config, tokens, store=form.store, capacity=form.capacity(tokens)))


def byte_table(
    config: Config, lengths: Sequence[int], count: Callable[[Config, str, int], int]
) -> dict[str, list[int]]:
    """`count` for every form and length."""
    return {name: [count(config, name, n) for n in lengths] for name in FORMS}


def kept(config: Config, tokens: int, capacity: int | None = None) -> dict[str, tuple[int, int]]:
    """Entries that one layer of each type keeps, and the slots that it has: {"sliding": (511, 512), …}."""
    cache = filled(config, tokens, store="hybrid", capacity=capacity)
    assert cache.ledger is not None  # it holds something
    found: dict[str, tuple[int, int]] = {}
    for kind, layer in zip(config.layer_types, cache.layers, strict=True):
        slots = layer.tensors()[0].shape[2]
        found[kind] = int(layer.stored(cache.ledger).max()), slots
    return found


def grown(config: Config, lengths: Sequence[int], store: str, capacity: int | None = None) -> list[int]:
    """Bytes of one cache read off at each of these lengths (ascending); with a capacity: what it takes."""
    from kvlab.measure.growth import append, shell

    cache = kvlab.Cache(
        shell(config, torch.float32, torch.device("cpu")),  # type: ignore[arg-type]
        store=store,
        capacity=capacity,
    )
    found = []
    for n in lengths:
        append(cache, n - cache.used)
        found.append(cache.nbytes if capacity is None else cache.allocated_bytes)
    return found
