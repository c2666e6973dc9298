"""Steps, models and loops with nothing wrong, of which the doctor has to stay silent; and meant losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from heldout_base import Hugging, Made, Mini, hugging, wrapper
from heldout_buffer import Buffer, below, buffered, in_order
from heldout_loops import cached, forced, static_loop
from torch import Tensor

import kvlab
from kvlab.doctor.subject import Subject

CORRECT: list[Callable[[], Any]] = []  # what they return is checked; a pair is a kvlab model and its cache


def right(make: Callable[[], Any]) -> Callable[[], Any]:
    CORRECT.append(make)
    return make


@right
def grouped_queries() -> Any:
    return hugging("Llama")


@right
def llama_in_bfloat16() -> Any:
    return hugging("Llama", dtype=torch.bfloat16)


@right
def llama_as_it_is_initialised() -> Any:
    """Hardly any attention to speak of: what rounding does must not look big beside it."""
    return hugging("Llama", dtype=torch.float32, initializer_range=0.02)


@right
def train_mode_without_dropout() -> Any:
    return hugging("Llama", dtype=torch.float32).train()


@right
def learned_positions() -> Any:
    return hugging("GPT2")


@right
def learned_positions_padded() -> Subject:
    return Hugging(hugging("GPT2"))


@right
def rotary_padded_without_positions() -> Subject:
    """A mask is all that rotary positions need: they are relative."""

    class Columns(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            return torch.arange(seen.shape[1]).expand(len(seen), -1)[:, -new:]

    return Columns(hugging("Llama"))


@right
def normed_queries_and_keys() -> Any:
    return hugging("Qwen3", head_dim=8)


@right
def window_of_six() -> Any:
    return hugging("Mistral", sliding_window=6)


@right
def windows_and_full_layers() -> Any:
    kinds = ["sliding_attention", "full_attention"]
    return hugging("Gemma3Text", head_dim=8, sliding_window=6, layer_types=kinds)


@right
def alibi() -> Any:
    return hugging("Bloom", dtype=torch.float32, n_layer=2, n_head=4)


@right
def static_cache_reset_between_texts() -> Subject:
    class Static(Hugging):
        def start(self) -> Any:
            from transformers import StaticCache

            return StaticCache(config=self.model.config, max_cache_len=512)

        def reset(self, state: Any) -> Any:
            state[0].reset()
            return state[0], state[1][:, :0]

    return Static(hugging("Llama"))


@right
def wrapper_that_wants_the_whole_sequence() -> Any:
    return wrapper(layer={"rotary_pos_emb": True}, use_abs_pos_emb=False).float()


@right
def wrapper_that_wants_new_tokens_only() -> Any:
    return wrapper(flag=True).float()


@right
def wrapper_in_float64() -> Any:
    return wrapper(flag=True)


@right
def last_token_only_where_bias_says_how_far() -> Callable:
    """x-transformers with the bias of T5: without positions of their own, new tokens alone are enough."""
    model = wrapper(layer={"rel_pos_bias": True}, use_abs_pos_emb=False)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return model(tokens, cache=state, return_intermediates=True, cache_age=tokens.shape[1])

    return step


@right
def lists_by_hand() -> Callable:
    return Mini().step


@right
def lists_by_hand_learned_positions() -> Callable:
    return Mini(learned=True).step


@right
def lists_trimmed_to_the_window() -> Callable:
    """The fix of `position_is_the_length_of_trimmed_lists`: count the tokens, not what is left of them."""
    mini = Mini(window=6)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen, lists = state or (0, None)
        logits, lists = mini.step(tokens, lists, at=torch.arange(seen, seen + tokens.shape[1]))
        return logits, (seen + tokens.shape[1], [(k[:, :, -5:], v[:, :, -5:]) for k, v in lists])

    return step


@right
def preallocated_slots() -> Subject:
    """Written in place, and the state that comes back is the one that went in."""
    mini = Mini()

    def crop(state: Buffer, n: int) -> Buffer:
        state.used = n
        return state

    def fork(state: Buffer) -> Buffer:
        return copy.deepcopy(state)

    can = {"crop": crop, "fork": fork, "reset": lambda state: crop(state, 0)}
    return Made(buffered(mini, 160, in_order, below), mini.full, **can)


@right
def kvlab_windows_and_normed_queries() -> Any:
    return kvlab.random("tiny-gemma3", seed=3)


@right
def kvlab_static_for_three() -> Any:
    lm = kvlab.random("tiny", seed=3)
    return lm, kvlab.Cache(lm, store="static", capacity=64, batch=3)


@right
def kvlab_bfloat16() -> Any:
    return kvlab.random("tiny", seed=3, dtype="bfloat16")


@right
def kvlab_buffer_that_copies_at_every_token() -> Any:
    lm = kvlab.random("tiny", seed=3)
    return lm, kvlab.Cache(lm, store=kvlab.Dynamic(growth=1.0))


@right
def loop_over_a_cache_of_its_own() -> Callable:
    lm = kvlab.load("tiny", device="cpu")
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        return forced(step, ids, None, new)

    loop.full = lm
    return loop


@right
def loop_that_resets_its_static_cache() -> Callable:
    return static_loop(reset=True)


@right
def loop_that_remembers_prompts_by_what_they_say() -> Callable:
    """The fix of `prompts_remembered_by_their_length`."""
    known: dict[tuple[int, ...], Any] = {}
    lm = kvlab.load("tiny", device="cpu")
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        text = tuple(ids[0].tolist())
        if text not in known:
            known[text] = step(ids[:, :-1], None)[1]
        return forced(step, ids[:, -1:], known[text].fork(), new)

    loop.full = lm
    return loop


# --- meant so: a loss is a loss and no bug ---


def lossy(**knobs: Any) -> tuple[Any, kvlab.Cache]:
    lm = kvlab.random("tiny", seed=4)
    return lm, kvlab.Cache(lm, **knobs)


LOSSY: dict[str, Callable[[], Any]] = {
    "int8": lambda: lossy(codec=kvlab.Int8()),
    "int8-static": lambda: lossy(codec=kvlab.Int8(), store="static", capacity=64),
    "sink-recent": lambda: lossy(eviction=kvlab.SinkRecent(sinks=2, recent=5)),
    "top-k": lambda: lossy(selection=kvlab.TopK(4)),
}
