"""x-transformers' `TransformerWrapper`: two contracts, and a cache that is never written in place."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kvlab.doctor.reference import Reference, in_dtype
from kvlab.doctor.subject import Subject, Unable


@dataclass
class State:
    """The wrapper's intermediates, the ids so far `[batch, total]`, and the padding on each row's left."""

    cache: Any
    ids: Tensor
    pads: Tensor | None = None  # [batch]


class XSubject(Subject):
    """A `TransformerWrapper` around a `Decoder`, by the contract that it was made for.

    Default: pass the whole sequence, the wrapper keeps the last `cache_age` positions. With
    `input_not_include_cache=True` in its constructor: pass the new tokens only.
    """

    def __init__(self, model: Any):
        if not getattr(model.attn_layers, "causal", False):
            raise ValueError(
                "this TransformerWrapper is no decoder: without a causal mask nothing can be cached."
            )
        if not model.can_cache_kv:
            raise ValueError(
                "this TransformerWrapper cannot cache (memory tokens, recycling, or a kind of attention); "
                "its generate() recomputes everything without saying so."
            )
        self.model = model
        self.new_only = bool(model.input_not_include_cache)
        self.vocab_size = model.num_tokens
        self.longest = model.max_seq_len
        self.name = "TransformerWrapper, " + ("new tokens only" if self.new_only else "whole sequence")

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        place, new = next(self.model.parameters()).device, tokens.shape[1]
        state = State(None, tokens[:, :0]) if state is None else state
        pads = _pads(mask, state)
        ids = torch.cat((state.ids, tokens), dim=1)
        told: dict[str, Any] = {} if pads is None else {"seq_start_pos": pads.to(place)}
        if state.cache is not None:
            told |= {"cache": state.cache, "cache_age": new}
        fed = tokens if self.new_only else ids
        logits, cache = self.model(fed.to(place), return_intermediates=True, **told)
        return logits[:, -new:].cpu(), State(cache, ids, pads)

    @torch.no_grad()
    def full(self, tokens: Tensor) -> Tensor:
        return self.model(tokens.to(next(self.model.parameters()).device)).cpu()

    def crop(self, state: State, length: int) -> State:
        return State(
            _changed(state.cache, lambda x: x[..., :length, :], length), state.ids[:, :length], state.pads
        )

    def fork(self, state: State) -> State:
        return state  # every step makes new tensors

    def reorder(self, state: State, rows: list[int]) -> State:
        cache = _changed(state.cache, lambda x: x[rows], state.cache.cache_length)
        return State(cache, state.ids[rows], None if state.pads is None else state.pads[rows])

    def to(self, dtype: torch.dtype) -> Subject:
        twin = copy.copy(self)
        twin.model = in_dtype(self.model, dtype)
        return twin

    def train(self, on: bool) -> None:
        self.model.train(on)


def _pads(mask: Tensor | None, state: State) -> Tensor | None:
    """How many tokens of padding each row begins with."""
    if mask is None or bool(mask.all()):
        return state.pads
    if state.cache is not None or not torch.equal(mask.long().sort(dim=1).values, mask.long()):
        raise Unable("x-transformers takes padding on the left of a text only")
    return (~mask).sum(dim=1)


def _changed(cache: Any, change: Any, length: int) -> Any:
    """A copy of the intermediates with other keys and values."""
    twin = copy.copy(cache)
    twin.attn_intermediates = []
    for one in cache.attn_intermediates:
        other = copy.copy(one)
        other.cached_kv = tuple(change(x) for x in one.cached_kv)
        twin.attn_intermediates.append(other)
    twin.cache_length = length
    return twin


class XReference(Reference):
    """Full recompute with positions and a mask told; the wrapper's own causal mask stays on top."""

    def __init__(self, model: Any):
        self.model = model
        self.vocab_size = model.num_tokens

    def layers(self) -> list[nn.Module]:
        return [block for _, block, _ in self.model.attn_layers.layers]

    @torch.no_grad()
    def full(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).cpu()

    @torch.no_grad()
    def at(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        if bool(visible.triu(1).any()):
            raise Unable("the wrapper always masks what comes later")
        rows = zip(tokens, positions, visible, strict=True)  # sinusoidal positions take one row: pos [tokens]
        return torch.cat([self.model(t[None], pos=p, attn_mask=see[None, None]).cpu() for t, p, see in rows])
