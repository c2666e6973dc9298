"""Held-out plants: the step lets a token see too much or too little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from heldout_base import Hugging, Made, Mini, hugging, length, plants
from torch import Tensor

from kvlab.doctor.subject import Subject


@plants("mask-new-tokens-only")
def attention_mask_of_the_new_tokens() -> Subject:
    class Short(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            return seen[:, -new:]

    return Short(hugging("Llama"))


@plants("mask-new-tokens-only")
def the_past_is_minus_infinity() -> Callable:
    """The chunk's own square mask, padded on the left with False where True was meant."""
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        see = F.pad(mini.causal(tokens.shape[1], 0), (length(state), 0))
        return mini.step(tokens, state, see=see)

    return step


@plants("mask-top-left")
def tril_of_a_mask_that_is_not_square() -> Subject:
    class TopLeft(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            return torch.ones(len(seen), 1, new, seen.shape[1], dtype=torch.bool).tril()

    return TopLeft(hugging("GPT2"))


@plants("no-mask-in-chunk")
def additive_mask_of_zeros_behind_a_past() -> Subject:
    class Open(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            if seen.shape[1] == new:
                return seen
            return torch.zeros(len(seen), 1, new, seen.shape[1], dtype=self.model.dtype)

    return Open(hugging("Qwen3", head_dim=8))


@plants("no-mask-in-chunk", shows="prefill")
def a_long_prompt_cut_in_fours() -> Subject:
    """Cuts its prompt by itself: the first four tokens have a mask, the later fours see their own ends."""
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits = []
        for part in tokens.split(4, dim=1):
            past, new = length(state), part.shape[1]
            see = torch.ones(new, past + new, dtype=torch.bool) if past else None
            out, state = mini.step(part, state, see=see)
            logits.append(out)
        return torch.cat(logits, dim=1), state

    return Made(step, mini.full)


@plants("own-entry-left-out")
def diagonal_one_too_low() -> Subject:
    """`tril(past - 1)`: a later token sees the past and its chunk, but not itself."""

    class Blind(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            past = seen.shape[1] - new
            see = torch.ones(len(seen), 1, new, past + new, dtype=torch.bool)
            return see.tril(past - 1) if past else seen

    return Blind(hugging("Llama"))


@plants("padding-without-mask", shows="padding")
def padding_is_masked_in_the_prompt_only() -> Subject:
    class Forgets(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            return seen if seen.shape[1] == new else torch.ones_like(seen)

    return Forgets(hugging("Llama"))


@plants("padding-without-positions", shows="padding")
def learned_positions_count_the_columns() -> Subject:
    class Columns(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            return torch.arange(seen.shape[1]).expand(len(seen), -1)[:, -new:]

    return Columns(hugging("GPT2"))
