"""transformers' causal language models: pass new tokens only; mask and positions are the caller's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.reference import Reference, in_dtype
from kvlab.doctor.subject import Subject


@dataclass
class State:
    """transformers' cache, and the mask over everything in it, `[batch, total]`; None: no padding so far."""

    cache: Any
    mask: Tensor | None = None
    total: int = 0


class TransformersSubject(Subject):
    """A causal LM, driven as its documentation says.

    cache: a function that makes an empty cache, or an empty cache to copy; None: `DynamicCache`.
    """

    def __init__(self, model: Any, cache: Any = None):
        if getattr(model.config, "is_encoder_decoder", False) or not hasattr(model, "lm_head"):
            if getattr(model, "get_output_embeddings", lambda: None)() is None:
                raise ValueError(
                    f"{type(model).__name__} has no language-model head; load it with AutoModelForCausalLM."
                )
        self.model, self.make = model, _maker(model, cache)
        self.vocab_size = model.config.get_text_config().vocab_size
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        empty = self.make()
        self.name = f"{type(model).__name__} with {type(empty).__name__}"

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        state = State(self.make()) if state is None else state
        batch, new = tokens.shape
        if mask is not None or state.mask is not None:
            before = torch.ones(batch, state.total, dtype=torch.bool) if state.mask is None else state.mask
            now = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
            state.mask = torch.cat((before, now), dim=1)
        place = self.model.device
        told: dict[str, Tensor] = {}
        if state.mask is not None:
            positions = (state.mask.long().cumsum(1) - 1).clamp(min=0)[:, -new:]
            told = {"attention_mask": state.mask.long().to(place), "position_ids": positions.to(place)}
        out = self.model(input_ids=tokens.to(place), past_key_values=state.cache, use_cache=True, **told)
        state.total += new
        return out.logits.cpu(), state

    @torch.no_grad()
    def full(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens.to(self.model.device), use_cache=False).logits.cpu()

    def crop(self, state: State, length: int) -> State:
        state.cache.crop(length - state.total)
        state.total = length
        state.mask = None if state.mask is None else state.mask[:, :length]
        return state

    def fork(self, state: State) -> State:
        return copy.deepcopy(state)

    def reorder(self, state: State, rows: list[int]) -> State:
        state.cache.reorder_cache(torch.tensor(rows, device=self.model.device))
        state.mask = None if state.mask is None else state.mask[rows]
        return state

    def reset(self, state: State) -> State:
        state.cache.reset()
        return State(state.cache)

    def to(self, dtype: torch.dtype) -> Subject:
        twin = copy.copy(self)
        twin.model = in_dtype(self.model, dtype)
        return twin

    def train(self, on: bool) -> None:
        self.model.train(on)


def _maker(model: Any, cache: Any) -> Callable[[], Any]:
    """A function that makes an empty cache."""
    if cache is None:
        from transformers import DynamicCache

        return lambda: DynamicCache(config=model.config)
    if hasattr(cache, "get_seq_length"):
        if int(cache.get_seq_length()):
            raise ValueError(
                "this cache already holds tokens; pass an empty one, or a function that makes one."
            )
        template = copy.deepcopy(cache)
        return lambda: copy.deepcopy(template)
    if callable(cache):
        return cache
    raise ValueError(
        f"cache must be an empty transformers cache, or a function that makes one, not {cache!r}."
    )


class TransformersReference(Reference):
    """Full recompute without a cache, with positions and a four-dimensional mask told."""

    def __init__(self, model: Any):
        self.model = model
        config = model.config.get_text_config()
        self.vocab_size = config.vocab_size
        self.windowed = getattr(config, "sliding_window", None) is not None

    @torch.no_grad()
    def at(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        return self._call(tokens, positions, visible, use_cache=False).logits.cpu()

    @torch.no_grad()
    def entries(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> list[tuple[Tensor, Tensor]]:
        from transformers import DynamicCache

        cache = DynamicCache()  # made without a config: it drops nothing, windows or not
        self._call(tokens, positions, visible, use_cache=True, past_key_values=cache)
        layers: list[Any] = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    def _call(self, tokens: Tensor, positions: Tensor, visible: Tensor, **told: Any) -> Any:
        model = self.model
        config = model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or [])
        near = self.near(positions, window)
        windowed = self._mask(visible if near is None else visible & near)
        if "sliding_attention" in kinds and len(kinds) > 1:
            mask: Any = {"full_attention": self._mask(visible), "sliding_attention": windowed}
        elif kinds and "sliding_attention" not in kinds:
            mask = self._mask(visible)
        else:
            mask = windowed
        ids, at = tokens.to(model.device), positions.to(model.device)
        return model(input_ids=ids, position_ids=at, attention_mask=mask, **told)

    def _mask(self, visible: Tensor) -> Tensor:
        """Additive, `[batch, 1, queries, keys]`: what both eager and SDPA take."""
        dtype = self.model.dtype
        hidden = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        return hidden[:, None].to(self.model.device)
