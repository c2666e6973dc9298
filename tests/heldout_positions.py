"""Held-out plants: the step gets its positions or its tokens wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from heldout_base import Entries, Hugging, Made, Mini, hugging, length, plants, wrapper
from torch import Tensor

import kvlab
from kvlab.doctor.loose import Loose
from kvlab.doctor.subject import Subject
from kvlab.model.rotary import angles, rotate


@plants("positions-restart")
def positions_counted_in_the_mask_of_the_new_tokens() -> Subject:
    """The usual `mask.cumsum(-1) - 1`, taken of the one-token mask; the attention mask is right."""

    class Restarts(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            return seen[:, -new:].cumsum(-1) - 1

    return Restarts(hugging("Llama"))


@plants("positions-restart")
def learned_positions_and_the_last_token_only() -> Callable:
    """x-transformers' wrapper in its default contract, given the new tokens alone."""
    model = wrapper()

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return model(tokens, cache=state, return_intermediates=True, cache_age=tokens.shape[1])

    return step


@plants("whole-sequence-appended")
def the_text_so_far_into_a_dynamic_cache() -> Callable:
    model = hugging("GPT2", n_positions=1024)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        text, cache = state or (tokens[:, :0], None)
        text = torch.cat([text, tokens], dim=1)
        out = model(text, past_key_values=cache, use_cache=True)
        return out.logits[:, -tokens.shape[1] :], (text, out.past_key_values)

    return step


@plants("whole-sequence-with-new-only-flag")
def flag_in_the_constructor_and_the_text_passed_whole() -> Callable:
    return whole_text(wrapper(flag=True, scaled_sinu_pos_emb=True))


@plants("whole-sequence-with-new-only-flag")
def flag_at_every_call_and_the_text_passed_whole() -> Callable:
    return whole_text(wrapper(), input_not_include_cache=True)


def whole_text(model: Any, **settings: Any) -> Callable:
    """A step that passes the text from its beginning to an x-transformers model."""

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        text, cache = state or (tokens[:, :0], None)
        text, new = torch.cat([text, tokens], dim=1), tokens.shape[1]
        out, cache = model(text, cache=cache, return_intermediates=True, cache_age=new, **settings)
        return out[:, -new:], (text, cache)

    return step


@plants("offset-by-one")
def every_later_call_one_position_too_early() -> Callable:
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        last = max(length(state) - 1, 0)  # the index of the last entry, where the next one was meant
        return mini.step(tokens, state, at=torch.arange(last, last + tokens.shape[1]))

    return step


@plants("offset-by-one")
def index_of_the_last_token_for_the_next() -> Subject:
    """The same where the doctor can find the model, and rows may be padded."""

    class Behind(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            at = super().positions(seen, new)
            return (at - 1).clamp(min=0) if seen.shape[1] > new else at

    return Behind(hugging("GPT2"))


@plants("positions-from-stored-length", shows="long")
def position_is_the_length_of_the_first_layers_keys() -> Callable:
    """transformers: a sliding layer's keys are never longer than the window; `get_seq_length()` knows."""
    right = Hugging(hugging("Mistral", sliding_window=6))

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        cache, past = (right.start(), 0) if state is None else (state, state.layers[0].keys.shape[2])
        at = torch.arange(past, past + tokens.shape[1]).expand(tokens.shape)
        return right.model(tokens, past_key_values=cache, position_ids=at).logits, cache

    return step


@plants("positions-from-stored-length", shows="long")
def position_is_the_length_of_trimmed_lists() -> Subject:
    """A sliding window model that rightly drops what no query can see, and then counts what is left."""
    mini = Mini(window=6)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits, state = mini.step(tokens, state)
        return logits, [(k[:, :, -5:], v[:, :, -5:]) for k, v in state]

    return Made(step, mini.full)


@plants("positions-from-stored-length", shows="padding")
def decode_positions_count_the_padding() -> Subject:
    """The prompt is right; at decoding a step takes the cache's length, padding and all."""

    class Counts(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            columns = torch.arange(seen.shape[1]).expand(len(seen), -1)
            return columns[:, -new:] if seen.shape[1] > new else super().positions(seen, new)

    return Counts(hugging("GPT2"))


@plants("mixed-rotation")
def decoded_keys_are_stored_plain() -> Callable:
    """The prompt's keys are stored rotated, a later token's as it came; it reads its own one rotated."""
    mini = Mini()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        past, new, stored = length(state), tokens.shape[1], []

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            if not past:
                stored.append((k, v))
                return k, v
            stored.append((torch.cat([state[i][0], plain], 2), torch.cat([state[i][1], v], 2)))
            return torch.cat([state[i][0], k], 2), stored[i][1]

        logits = mini.run(tokens, torch.arange(past, past + new), mini.causal(new, past), keep)
        return logits, stored

    return step


@plants("mixed-rotation")
def decoded_keys_are_turned_back() -> Callable:
    """On kvlab's decoder: after every later call its keys are rotated back to what they were."""
    lm = kvlab.load("tiny", device="cpu")

    def step(tokens: Tensor, state: Loose | None = None) -> tuple[Tensor, Loose]:
        cache = state or Loose(lm)
        past, logits = cache.length, cache(tokens)
        at = torch.arange(past, cache.length)[None, None]
        cos, sin = angles(at, lm.layers[0].self_attn.frequencies, lm.dtype)
        for layer in cache.layers if past else []:
            layer.keys[:, :, past:] = rotate(layer.keys[:, :, past:], cos, -sin)
        return logits, cache

    return step
