"""Misuses to try the doctor on while it is written: one of each name, over three libraries.

Small random models. A plant is what `kvlab.doctor.check` takes: a `Subject`, a step, or a loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kvlab
from kvlab.doctor import Subject
from kvlab.doctor.adapters import KvlabSubject
from kvlab.doctor.loose import Loose, causal_mask
from kvlab.interop.transformers import State, TransformersSubject
from kvlab.model.rotary import angles, rotate

VOCAB = 97
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def wide(model: Any, std: float = 0.2) -> Any:
    """The same model with weights wide enough that a mistake moves the logits by tenths."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, std, generator=generator)
    return model.eval()


@functools.cache
def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, **sizes, **changes)
    return wide(LlamaForCausalLM(config))


@functools.cache
def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    return wide(GPT2LMHeadModel(config))


@functools.cache
def mistral(window: int = 64) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=VOCAB, num_key_value_heads=2, sliding_window=window, **sizes)
    return wide(MistralForCausalLM(config))


@functools.cache
def gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = Gemma3TextConfig(
        vocab_size=VOCAB,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        **sizes,
    )
    return wide(Gemma3ForCausalLM(config))


@functools.cache
def wrapper(kind: str = "rotary", new_only: bool = False, **layers: Any) -> Any:
    """An x-transformers decoder with "rotary", "learned", "t5" (bias) or "none" positions."""
    from x_transformers import Decoder, TransformerWrapper

    told: dict[str, Any] = {
        "rotary": {"rotary_pos_emb": True, "rotary_emb_dim": 32},
        "t5": {"rel_pos_bias": True},
    }
    return wide(
        TransformerWrapper(
            num_tokens=VOCAB,
            max_seq_len=128,
            use_abs_pos_emb=kind == "learned",
            input_not_include_cache=new_only,
            attn_layers=Decoder(dim=32, depth=3, heads=2, attn_dim_head=32, **told.get(kind, {}), **layers),
        ),
        0.3,
    )


# --- on kvlab's decoder, with the cache without guards ---


def loosely(lm: Any, call: Callable[[Loose, Tensor], Tensor]) -> Step:
    """A plain step from `call(cache, tokens) -> logits`."""

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        cache = Loose(lm) if state is None else state
        return call(cache, tokens), cache

    return step


def at(lm: Any, positions: Callable[[int, int], Tensor]) -> Step:
    """A step that puts its tokens at `positions(past, new)`."""
    return loosely(lm, lambda cache, t: cache(t, positions(cache.length, t.shape[1])))


def under(lm: Any, mask: Callable[[int, int], Tensor]) -> Step:
    """A step under `mask(past, new) -> [new, past + new]`."""
    return loosely(lm, lambda cache, t: cache(t, mask=mask(cache.length, t.shape[1])))


def no_diagonal(past: int, new: int) -> Tensor:
    mask = causal_mask(new, past + new)
    return mask.tril(past - 1) if past else mask


def all_open(past: int, new: int) -> Tensor:
    return torch.ones(new, past + new, dtype=torch.bool)


def first_slots(past: int, new: int) -> Tensor:
    return torch.arange(past + new).expand(new, -1) < new


def dropping_a_block(lm: Any) -> Step:
    """The prompt loses its tokens 1 and 2, and positions go on from what is left."""

    def call(cache: Loose, tokens: Tensor) -> Tensor:
        fresh = cache.length == 0
        logits = cache(tokens)
        if fresh and cache.length > 3:
            cache.keep([0, *range(3, cache.length)])
        return logits

    return loosely(lm, call)


def not_stored(lm: Any, capacity: int = 14) -> Step:
    """Tokens beyond the capacity are read once and not stored; positions are right."""

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        cache, seen = (Loose(lm), 0) if state is None else state
        new = tokens.shape[1]
        logits = cache(tokens, torch.arange(seen, seen + new))
        if cache.length > capacity:
            cache.crop(capacity)
        return logits, (cache, seen + new)

    return step


def prompt_unrotated(lm: Any) -> Step:
    """The prompt's keys are cached before rotation, later ones after it."""

    def call(cache: Loose, tokens: Tensor) -> Tensor:
        fresh = cache.length == 0
        logits = cache(tokens)
        if fresh:
            back = angles(-torch.arange(cache.length), lm.kinds["full"].frequencies, lm.dtype)
            for layer in cache.layers:
                layer.keys = rotate(layer.keys, *back)
        return logits

    return loosely(lm, call)


def prefilled(lm: Any) -> Step:
    """Every text starts in a cache that another prompt has filled."""
    other = torch.tensor([[7, 30, 12, 5]])

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            state = Loose(lm)
            state(other.expand(len(tokens), -1))
        return state(tokens), state

    return step


class SharedFork(KvlabSubject):
    """A fork that is the original."""

    def fork(self, state: Any) -> Any:
        return state


class LatePadding(Subject):
    """Left padding is masked and left out of the prompt's positions; later positions are slot numbers."""

    name = "late padding"

    def __init__(self, lm: Any):
        self.lm, self.vocab_size = lm, lm.config.vocab_size

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        cache, real = (Loose(self.lm), None) if state is None else state
        new = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        real = new if real is None else torch.cat((real, new), dim=1)
        positions = None if cache.length else (new.long().cumsum(1) - 1).clamp(min=0)
        see = causal_mask(tokens.shape[1], real.shape[1]) & real[:, None, None]
        return cache(tokens, positions, see), (cache, real)

    def full(self, tokens: Tensor) -> Tensor:
        return self.lm(tokens)


# --- on transformers ---


def hf_step(
    model: Any, call: Callable[[Any, Tensor, Any], Tensor], make: Callable[[], Any] | None = None
) -> Step:
    """A step with transformers' own cache: `call(model, tokens, cache) -> logits`."""
    from transformers import DynamicCache

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = (make or DynamicCache)() if state is None else state
        with torch.no_grad():
            return call(model, tokens, state), state

    return step


def short_mask(model: Any, tokens: Tensor, cache: Any) -> Tensor:
    return model(tokens, attention_mask=torch.ones_like(tokens), past_key_values=cache).logits


class NoMask(TransformersSubject):
    """The padding mask is not passed on."""

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        return super().step(tokens, state)


class NoPositions(TransformersSubject):
    """The padding mask is passed on, positions are the library's default."""

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        state = State(self.make(), torch.zeros(len(tokens), 0, dtype=torch.bool)) if state is None else state
        new = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        state.mask = torch.cat((state.mask, new), dim=1)
        state.total += tokens.shape[1]
        out = self.model(tokens, attention_mask=state.mask.long(), past_key_values=state.cache)
        return out.logits, state

    def reset(self, state: State) -> Any:
        return None


class BackwardsReorder(TransformersSubject):
    """Rows go where they should come from."""

    def reorder(self, state: State, rows: list[int]) -> State:
        return super().reorder(state, [rows.index(i) for i in range(len(rows))])


class CutRing(TransformersSubject):
    """Tokens are cut off sliding layers that have already dropped what came before."""

    def crop(self, state: State, length: int) -> State:
        off = state.total - length
        for layer in state.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :-off], layer.values[:, :, :-off]
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length -= off
        state.total = length
        return state


def hf_gradients(model: Any) -> Step:
    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=state, use_cache=True)
        return out.logits, out.past_key_values

    return step


def hf_not_reset(model: Any) -> Step:
    """One static cache for all texts, never reset."""
    from transformers import StaticCache

    held = StaticCache(config=model.config, max_cache_len=512)
    return hf_step(model, lambda m, t, c: m(t, past_key_values=c).logits, lambda: held)


def hf_covered(model: Any) -> Callable[[Tensor, list[int]], Tensor]:
    """A loop that passes the prompt to a cache that was filled with it."""
    from transformers import DynamicCache

    @torch.no_grad()
    def loop(ids: Tensor, new: list[int]) -> Tensor:
        cache = DynamicCache()
        model(ids, past_key_values=cache)
        logits = [model(ids, past_key_values=cache).logits[0, -1]]
        for token in new[:-1]:
            logits.append(model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1])
        return torch.stack(logits)

    return loop


# --- on x-transformers ---


def x_step(model: Any, whole: bool, flag: bool) -> Step:
    """A step that passes everything or the last tokens, with or without `input_not_include_cache`."""

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        ids, cache = (tokens[:, :0], None) if state is None else state
        ids = torch.cat((ids, tokens), dim=1)
        told = {} if cache is None else {"cache": cache, "cache_age": tokens.shape[1]}
        if flag and cache is not None:
            told["input_not_include_cache"] = True
        with torch.no_grad():
            fed = ids if whole or cache is None else tokens
            logits, cache = model(fed, return_intermediates=True, **told)
        return logits[:, -tokens.shape[1] :], (ids, cache)

    return step


def training(model: Any) -> Any:
    return model.train()


def plants() -> dict[str, Any]:
    """Misuse: what to check."""
    tiny = kvlab.load("tiny", device="cpu")
    small = mistral(48)
    return {
        "positions-restart": at(tiny, lambda past, new: torch.arange(new)),
        "whole-sequence-appended": whole_into_cache(tiny),
        "whole-sequence-with-new-only-flag": x_step(wrapper("learned"), whole=True, flag=True),
        "offset-by-one": at(tiny, lambda past, new: torch.arange(past, past + new) - int(past > 0)),
        "positions-from-stored-length": LatePadding(tiny),
        "mask-new-tokens-only": hf_step(llama(), short_mask),
        "mask-top-left": under(tiny, lambda past, new: torch.ones(new, past + new, dtype=torch.bool).tril()),
        "no-mask-in-chunk": under(tiny, all_open),
        "padding-without-mask": NoMask(llama()),
        "padding-without-positions": NoPositions(gpt2()),
        "another-prompts-cache": prefilled(tiny),
        "cache-covers-prompt": hf_covered(llama()),
        "static-not-reset": hf_not_reset(llama()),
        "static-overflow": not_stored(tiny),
        "capacity-becomes-window": TransformersSubject(small, static(small, 20)),
        "shared-prefix-in-place": SharedFork(tiny),
        "crop-on-ring": CutRing(gemma3()),
        "own-entry-left-out": under(tiny, no_diagonal),
        "dropout-on": training(wrapper("rotary", attn_dropout=0.1, ff_dropout=0.1)),
        "layer-dropout": training(wrapper("learned", layer_dropout=0.3)),
        "rows-permuted": BackwardsReorder(llama()),
        "gradients-kept": hf_gradients(llama()),
        "mixed-rotation": prompt_unrotated(tiny),
        "rounding": kvlab.load("tiny", device="cpu", dtype="bfloat16"),
    }


def static(model: Any, capacity: int) -> Callable[[], Any]:
    """A maker of transformers' static caches."""
    from transformers import StaticCache

    return lambda: StaticCache(config=model.config, max_cache_len=capacity)


def whole_into_cache(lm: Any) -> Step:
    """kvlab's own cache, given the whole text at every step."""

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        ids, cache = (tokens[:, :0], kvlab.Cache(lm)) if state is None else state
        ids = torch.cat((ids, tokens), dim=1)
        return lm(ids, cache)[:, -tokens.shape[1] :], (ids, cache)

    return step
