"""Held-out plants, once more: written after the doctor was mended by what it had missed of the others.

Each does by another mechanism what one of those does. The probes stayed as they were when they met them, with
one exception: of `positions_count_what_an_eviction_left` the doctor said "unknown", because it looked for old
tokens out of sight only before the first wrong one. `lists_of_the_last_dozen` was written after that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from heldout_base import Entries, Hugging, Made, Mini, hugging, length, plants, wrapper
from heldout_correct import right
from heldout_loops import forced
from torch import Tensor

from kvlab.doctor.subject import Subject


class Waves(Mini):
    """Positions as sines and cosines, added to the embedding."""

    def __init__(self) -> None:
        super().__init__(learned=True)
        speed = 50.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
        angle = torch.arange(700, dtype=torch.float64)[:, None] * speed
        self.places = 2 * torch.cat([angle.sin(), angle.cos()], dim=-1)


@plants("offset-by-one")
def counter_moves_on_after_its_use() -> Callable:
    """The prompt sets the counter to its last index; each later token uses it, and then adds one."""
    mini = Waves()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        counter, lists = state or (None, None)
        new = tokens.shape[1]
        at = torch.arange(new) + (0 if counter is None else counter)
        logits, lists = mini.step(tokens, lists, at=at)
        return logits, (new - 1 if counter is None else counter + new, lists)

    return step


@plants("offset-by-one")
def later_positions_one_too_far_and_no_model() -> Callable:
    """Nothing outside says where a token was put: no text has a token there that reads the same."""
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        past = length(state)
        first = past + 1 if past else 0
        return mini.step(tokens, state, at=torch.arange(first, first + tokens.shape[1]))

    return step


@plants("positions-restart")
def sinusoidal_positions_and_the_last_token_only() -> Callable:
    """As with learned positions; to recompute it, this wrapper wants its positions without a batch."""
    model = wrapper(scaled_sinu_pos_emb=True)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return model(tokens, cache=state, return_intermediates=True, cache_age=tokens.shape[1])

    return step


@plants("positions-from-stored-length", shows="long")
def positions_count_what_an_eviction_left() -> Callable:
    """Two sinks and the last eight tokens stay; the next position is how many there are."""
    mini = Mini()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits, lists = mini.step(tokens, state)
        if length(lists) > 10:
            lists = [tuple(torch.cat([x[:, :, :2], x[:, :, -8:]], 2) for x in pair) for pair in lists]
        return logits, lists

    return step


@plants("capacity-becomes-window", shows="long")
def lists_of_the_last_dozen() -> Callable:
    """A full-attention model whose lists are trimmed to twelve; positions are learned, and right."""
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen, lists = state or (0, None)
        logits, lists = mini.step(tokens, lists, at=torch.arange(seen, seen + tokens.shape[1]))
        return logits, (seen + tokens.shape[1], [(k[:, :, -12:], v[:, :, -12:]) for k, v in lists])

    return step


@plants("own-entry-left-out")
def decoded_tokens_are_never_stored() -> Callable:
    """A later token reads the prompt and itself; what is given back is the prompt's state."""
    mini = Mini()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen, lists = state or (0, None)
        new, held = tokens.shape[1], length(lists)
        see = torch.cat([torch.ones(new, held, dtype=torch.bool), mini.causal(new, 0)], dim=1)
        logits, grown = mini.step(tokens, lists, at=torch.arange(seen, seen + new), see=see)
        return logits, (seen + new, lists or grown)

    return step


@plants("static-overflow", shows="far")
def store_of_a_hundred_starts_over() -> Subject:
    """When all slots are taken the store is emptied, and the text goes on at its positions."""
    mini, slots = Mini(), 100

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits = []
        for token in tokens.split(1, dim=1):
            seen, lists = state or (0, None)
            lists = None if length(lists) == slots else lists
            see = torch.ones(1, length(lists) + 1, dtype=torch.bool)
            out, lists = mini.step(token, lists, at=torch.tensor([seen]), see=see)
            logits.append(out)
            state = (seen + 1, lists)
        return torch.cat(logits, dim=1), state

    return Made(step, mini.full)


@plants("capacity-becomes-window", shows="far")
def static_cache_of_a_wide_window_too_small() -> Subject:
    """A window of 200, and a StaticCache of 90."""

    class Small(Hugging):
        def start(self) -> Any:
            from transformers import StaticCache

            return StaticCache(config=self.model.config, max_cache_len=90)

    return Small(hugging("Mistral", sliding_window=200))


@right
def rotary_wrapper_in_float64() -> Any:
    """Padded, it gives no numbers either: its mask is float64's lowest, and its softmax is in float32."""
    return wrapper(layer={"rotary_pos_emb": True}, use_abs_pos_emb=False)


@plants("rows-permuted", shows="reorder")
def reorder_forgets_the_first_layer() -> Subject:
    mini = Mini(learned=True)

    def reorder(state: list[Entries], rows: list[int]) -> list[Entries]:
        return [state[0], *((k[rows], v[rows]) for k, v in state[1:])]

    return Made(mini.step, mini.full, reorder=reorder)


@plants("dropout-on", shows="twice")
def one_head_with_attention_dropout() -> Any:
    """One layer, one head, and a tenth of its attention weights dropped: little is drawn at all."""
    shape = {"num_hidden_layers": 1, "num_attention_heads": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    return hugging("GPT2", attn_pdrop=0.1, **shape).train()


@plants("gradients-kept", shows="gradients", who="caller")
def prefills_in_an_lru_cache() -> Callable:
    """The prompt's cache is remembered by a decorator, where no attribute or closure shows it."""
    model = hugging("Llama", dtype=torch.float32)

    @functools.lru_cache(maxsize=4)
    def prefill(ids: tuple[int, ...]) -> Any:
        return model(torch.tensor([ids]), use_cache=True).past_key_values

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=cache, use_cache=True)
        return out.logits.detach(), out.past_key_values

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        text = tuple(ids[0, :-1].tolist())
        logits = forced(step, ids[:, -1:], prefill(text), new)
        prefill(text).crop(-len(new))
        return logits

    loop.held = lambda ids: prefill(tuple(ids[0, :-1].tolist()))
    return loop
