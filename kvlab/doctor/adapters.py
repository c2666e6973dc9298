"""What `check` was given, as a subject: kvlab's models with a cache, and plain functions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.doctor.reference import in_dtype
from kvlab.doctor.subject import CacheSubject, Subject, Unable
from kvlab.stores import named_store

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


class KvlabSubject(CacheSubject):
    """kvlab's decoder with caches made like `like` (None: the default). The state is a `kvlab.Cache`."""

    def __init__(self, lm: Decoder, like: Cache | None = None):
        self.lm, self.like = lm, like
        self.vocab_size = lm.config.vocab_size
        self.longest = None if like is None else like.kind.capacity
        self.name = lm.config.name if like is None else f"{lm.config.name} with {_kind(like)}"
        self.lossy = None if like is None else loss_of(like)

    def new(self, batch: int) -> Cache:
        """An empty cache for so many rows."""
        like = self.like
        if like is None:
            return Cache(self.lm)
        kind = like.kind
        store = kind if kind.batch in (None, batch) else named_store(kind.name, kind.capacity, batch)
        return Cache(self.lm, store, codec=like.codec, eviction=like.eviction, selection=like.selection)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        cache = self.new(len(tokens)) if state is None else state
        place = self.lm.device
        return self.lm(tokens.to(place), cache, None if mask is None else mask.to(place)).cpu(), cache

    @torch.no_grad()
    def full(self, tokens: Tensor) -> Tensor:
        return self.lm(tokens.to(self.lm.device)).cpu()

    def reset(self, state: Any) -> Any:
        state.reset()
        return state

    def to(self, dtype: torch.dtype) -> Subject:
        twin = copy.copy(self)
        twin.lm = in_dtype(self.lm, dtype)
        return twin

    def train(self, on: bool) -> None:
        self.lm.train(on)


def _knobs(cache: Cache) -> list[str]:
    knobs: list[Any] = [cache.eviction, cache.selection]
    knobs += cache.codec if isinstance(cache.codec, tuple) else [cache.codec]
    return [type(knob).__name__ for knob in knobs if knob is not None]


def _kind(cache: Cache) -> str:
    size = "" if cache.kind.capacity is None else f" of {cache.kind.capacity}"
    return " + ".join([f"a {cache.kind.name} cache{size}", *_knobs(cache)])


def loss_of(cache: Cache) -> str | None:
    """What a cache loses on purpose, in words; None: nothing."""
    knobs = _knobs(cache)
    return f"the cache was asked to lose something ({', '.join(knobs)})" if knobs else None


class FunctionSubject(Subject):
    """Any `step(tokens, state) -> (logits, state)`; tokens int64 `[batch, new]`, state None at a new text."""

    def __init__(self, step: Callable[..., Any], vocab_size: int, batched: bool = True):
        self.function, self.vocab_size, self.batched = step, vocab_size, batched
        self.name = getattr(step, "__name__", type(step).__name__)

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        if mask is not None:
            raise Unable("a plain step(tokens, state) takes no mask")
        return unpacked(self.function(tokens, state), self.name)


def unpacked(result: Any, name: str) -> tuple[Tensor, Any]:
    """Logits and state, or a sentence about what came instead."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
        what = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise TypeError(f"{name} must return (logits, state) with logits a tensor, not {what}")
    return result
