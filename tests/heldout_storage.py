"""Held-out plants: what a store does when it is full, forked, cropped or used again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from heldout_base import Hugging, Made, Mini, hugging, plants
from heldout_buffer import Buffer, below, buffered, in_order
from torch import Tensor

import kvlab
from kvlab.doctor.loose import Loose
from kvlab.doctor.subject import Subject


@plants("static-not-reset", shows="reset")
def counter_reset_but_old_slots_in_sight() -> Subject:
    """`reset` sets the counter to 0; what hides a slot is that nothing was ever written to it."""
    mini = Mini()

    def see(state: Buffer, new: int) -> Tensor:
        slot = torch.arange(state.slots)
        stale = (slot >= state.used + new) & (slot < state.high)
        return below(state, new) | stale

    def reset(state: Buffer) -> Buffer:
        state.used = 0
        return state

    return Made(buffered(mini, 96, in_order, see), mini.full, reset=reset)


@plants("static-overflow", shows="long")
def writes_clamped_to_the_last_slot() -> Subject:
    """As an update at a clamped index does it: past the capacity every token replaces the one before."""
    mini = Mini(learned=True)

    def where(state: Buffer, new: int) -> Tensor:
        return in_order(state, new).clamp(max=state.slots - 1)

    return Made(buffered(mini, 16, where, below), mini.full)


@plants("static-overflow", shows="long")
def what_comes_late_is_not_stored() -> Callable:
    """On kvlab's decoder: a full store still answers, each new token from the 20 stored ones and itself."""
    lm = kvlab.load("tiny", device="cpu")

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen, cache = state or (0, Loose(lm))
        after = seen + tokens.shape[1]
        logits = cache(tokens, positions=torch.arange(seen, after))
        cache.crop(min(20, cache.length))
        return logits, (after, cache)

    return step


@plants("capacity-becomes-window", shows="long")
def static_cache_of_a_sliding_model_too_small() -> Subject:
    """transformers: a window of 64, and a StaticCache of 10, which takes the smaller of the two."""

    class Small(Hugging):
        def start(self) -> Any:
            from transformers import StaticCache

            return StaticCache(config=self.model.config, max_cache_len=10)

    return Small(hugging("Mistral", sliding_window=64))


@plants("shared-prefix-in-place", shows="fork")
def forks_are_views_of_one_buffer() -> Subject:
    mini = Mini()

    def fork(state: Buffer) -> Buffer:
        views = [(k[:], v[:]) for k, v in state.entries]  # a slice: new tensors, old storage
        return Buffer(state.slots, views, state.used, state.high)

    return Made(buffered(mini, 96, in_order, below), mini.full, fork=fork)


@plants("crop-on-ring", shows="crop")
def crop_lowers_the_counter_of_a_ring() -> Subject:
    """A window of 6 in a ring of 6: what the dropped tokens have overwritten is gone, and theirs is read."""
    mini, size = Mini(window=6), 6

    def see(state: Buffer, new: int) -> Tensor:
        return torch.arange(size) < state.used + 1

    one = buffered(mini, size, lambda state, new: in_order(state, new) % size, see)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits = []
        for token in tokens.split(1, dim=1):  # a ring as large as the window takes one token at a time
            out, state = one(token, state)
            logits.append(out)
        return torch.cat(logits, dim=1), state

    def crop(state: Buffer, n: int) -> Buffer:
        state.used = n
        return state

    return Made(step, mini.full, crop=crop)
