"""Held-out plants: a right step in a caller's wrong loop.

loop(ids [1, prompt], new) -> logits [len(new), vocab], row i before token new[i]; `loop.full` recomputes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from heldout_base import Hugging, hugging, plants
from torch import Tensor

import kvlab


def forced(step: Callable, tokens: Tensor, state: Any, new: list[int]) -> Tensor:
    """Logits after `tokens`, and after each token of `new` but the last."""
    logits = []
    for token in new:
        out, state = step(tokens, state)
        logits.append(out[0, -1])
        tokens = tokens.new_tensor([[token]])
    return torch.stack(logits)


def cached(lm: Any) -> Callable:
    """A right step on kvlab's decoder."""

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        cache = kvlab.Cache(lm) if cache is None else cache
        return lm(tokens, cache), cache

    return step


@plants("another-prompts-cache", shows="loop", who="caller")
def prompts_remembered_by_their_length() -> Callable:
    """Saves the second prefill of a prompt; two prompts of one length are taken for the same."""
    lm, known = kvlab.load("tiny", device="cpu"), {}
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        if ids.shape[1] not in known:
            known[ids.shape[1]] = step(ids[:, :-1], None)[1]
        return forced(step, ids[:, -1:], known[ids.shape[1]].fork(), new)

    loop.full = lm
    return loop


@plants("cache-covers-prompt", shows="loop", who="caller")
def prompt_scored_and_then_passed_again() -> Callable:
    right = Hugging(hugging("GPT2"))

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        _, state = right.step(ids)  # its likelihood was wanted first
        return forced(right.step, ids, state, new)

    loop.full = right.full
    return loop


@plants("cache-covers-prompt", shows="loop", who="caller")
def last_token_of_the_prompt_passed_again() -> Callable:
    """The cache covers the whole prompt, and yet something has to be passed to have logits."""
    lm = kvlab.load("tiny", device="cpu")
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        _, cache = step(ids, None)
        return forced(step, ids[:, -1:], cache, new)

    loop.full = lm
    return loop


@plants("static-not-reset", shows="loop", who="caller")
def one_static_cache_for_all_texts() -> Callable:
    return static_loop(reset=False)


def static_loop(reset: bool) -> Callable:
    from transformers import StaticCache

    model = hugging("Llama")
    cache = StaticCache(config=model.config, max_cache_len=1024)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return model(tokens, past_key_values=cache).logits, None

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        if reset:
            cache.reset()
        return forced(step, ids, None, new)

    loop.full = Hugging(model).full
    return loop


@plants("gradients-kept", shows="gradients", who="caller")
def session_keeps_its_last_cache() -> Callable:
    """No `no_grad`; what the loop returns is detached, and the cache that it keeps for later is not."""
    model, session = hugging("GPT2", dtype=torch.float32), {}

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=state, use_cache=True)
        session["cache"] = out.past_key_values
        return out.logits.detach(), out.past_key_values

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        return forced(step, ids, None, new)

    loop.held = lambda ids: session["cache"]
    return loop
