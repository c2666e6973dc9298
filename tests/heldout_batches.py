"""Held-out plants: train mode, rows of a batch, gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from heldout_base import Entries, Hugging, Made, Mini, hugging, length, plants, wrapper
from torch import Tensor

from kvlab.doctor.subject import Subject


@plants("dropout-on", shows="twice")
def attention_dropout_alone() -> Any:
    """A transformers model as it comes out of training; only its attention weights are dropped."""
    return hugging("Llama", attention_dropout=0.3).train()


@plants("layer-dropout", shows="twice")
def drop_path_for_each_row() -> Subject:
    """Stochastic depth as vision models have it: each row skips a layer by itself, the others are scaled."""
    mini = Mini()
    draw = torch.Generator().manual_seed(0)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        past, new, grown = length(state), tokens.shape[1], []

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            grown.append((torch.cat([state[i][0], k], 2), torch.cat([state[i][1], v], 2)) if past else (k, v))
            return grown[i]

        def path() -> Tensor:
            return (torch.rand(len(tokens), 1, 1, generator=draw, dtype=torch.float64) < 0.7) / 0.7

        at = torch.arange(past, past + new)
        return mini.run(tokens, at, mini.causal(new, past), keep, path), grown

    return Made(step, lambda tokens: step(tokens)[0])


@plants("layer-dropout", shows="twice")
def layer_dropout_left_on() -> Any:
    """An x-transformers model as it comes out of training."""
    return wrapper(layer={"layer_dropout": 0.4}).train()


@plants("rows-permuted", shows="batch")
def rows_sorted_anew_in_every_call() -> Callable:
    """Sorts its rows by first token, to batch like with like; the cache keeps the order of its first call."""
    mini = Mini()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        order = tokens[:, 0].argsort(stable=True)
        logits, state = mini.step(tokens[order], state)
        return logits[order.argsort()], state

    return step


@plants("rows-permuted", shows="reorder")
def reorder_scatters_where_it_should_gather() -> Subject:
    """Row `rows[i]` becomes what row i was: the same for a swap, the inverse for a turn of three."""

    class Scatters(Hugging):
        def reorder(self, state: Any, rows: list[int]) -> Any:
            cache, seen = copy.deepcopy(state)
            to = torch.tensor(rows)
            for layer in cache.layers:
                layer.keys = layer.keys.clone().index_copy_(0, to, layer.keys)
                layer.values = layer.values.clone().index_copy_(0, to, layer.values)
            return cache, seen

    return Scatters(hugging("Llama"))


@plants("gradients-kept", shows="gradients")
def logits_detached_but_not_the_cache() -> Callable:
    model = hugging("Llama", dtype=torch.float32)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=state, use_cache=True)
        return out.logits.detach(), out.past_key_values

    return step


@plants("rows-permuted", shows="reorder")
def keys_follow_their_rows_and_values_do_not() -> Subject:
    class KeysOnly(Hugging):
        def reorder(self, state: Any, rows: list[int]) -> Any:
            cache, seen = copy.deepcopy(state)
            for layer in cache.layers:
                layer.keys = layer.keys[rows]
            return cache, seen

    return KeysOnly(hugging("Llama"))
