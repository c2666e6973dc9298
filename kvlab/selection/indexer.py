"""A small learned scorer for each layer: few heads, one key for all of them (DSA)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, Selection
from kvlab.selection.trained import Trained, Weights

if TYPE_CHECKING:
    from kvlab.stores.base import Knobs, Step, View


class Indexer(Trained):
    """Read the `k` entries that a trained indexer ranks highest, the same for all heads of a layer.

    The lightning indexer of DeepSeek Sparse Attention (DeepSeek-AI, 2025): entry s scores
    Σ_j w_j · ReLU(q_j · k_s), with few small heads j and one shared small key. There queries, weights and
    keys come from the layer's input; here they are linear in the queries and keys that the layer already
    has, rotated as they are, so that the index can be made of what lies in any cache. The small key of each
    entry is kept and read, in the dtype of the keys.

    weights: the name of a model that the package has trained weights for, a file that `kvlab train-indexer`
    wrote, or the tensors themselves: query `[layers, heads * head_dim, index_heads * index_dim]`, weight
    `[layers, heads * head_dim, index_heads]`, key `[layers, kv_heads * head_dim, index_dim]`.

    Raises:
        ValueError: if `k` is less than 1, there are no such weights, or they were trained for other layers.
    """

    kind = "indexer"
    page = 1

    def __init__(self, k: int = 128, weights: str | Path | Weights = "smollm2-135m", first: int = 0):
        if k < 1 or first < 0:
            raise ValueError(f"Indexer needs k >= 1 and first >= 0, not {k} and {first}.")
        super().__init__(weights)
        self.k, self.first = k, first

    def at(self, layer: int) -> Selection | None:
        return None if layer < self.first else super().at(layer)

    def refuse(self, knobs: Knobs, kv_heads: int) -> None:
        super().refuse(knobs, kv_heads)
        if knobs.eviction is not None:
            raise ValueError(
                f"Indexer ranks tokens for all heads together, and {type(knobs.eviction).__name__} may keep "
                "other tokens in each; use one without the other."
            )
        if self.weights["key"].shape[0] % kv_heads:
            raise ValueError(f"these indexers were not trained for a model with {kv_heads} KV heads.")

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"key": small_keys(keys.transpose(1, 2).flatten(2), self.on(keys)).unsqueeze(1)}

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        if index.pages <= self.k:
            return None
        held = index["key"]  # [batch, 1, slots, index_dim]
        q = queries.transpose(1, 2).flatten(2)  # [batch, 1, heads * head_dim]
        found = scores(q, held[:, 0], self.on(queries))  # [batch, 1, slots]
        found = found.masked_fill(~visible[:, :1, 0, : index.pages], float("-inf"))
        rows = found.topk(self.k, dim=-1).indices.sort(dim=-1).values
        return Pick(rows, held.nbytes)


def small_keys(keys: Tensor, weights: Weights) -> Tensor:
    """`keys [..., tokens, kv_heads * head_dim]` -> `[..., tokens, index_dim]`."""
    return keys @ weights["key"]


def scores(queries: Tensor, held: Tensor, weights: Weights) -> Tensor:
    """Σ_j w_j · ReLU(q_j · k_s), `[..., rows, tokens]`.

    queries: `[..., rows, heads * head_dim]`; held: `[..., tokens, index_dim]` of `small_keys`.
    """
    heads, dim = weights["weight"].shape[-1], held.shape[-1]
    q = (queries @ weights["query"]).unflatten(-1, (heads, dim)).flatten(-3, -2)  # [..., rows * heads, dim]
    met = torch.relu(q @ held.transpose(-1, -2)).unflatten(-2, (-1, heads))  # [..., rows, heads, tokens]
    return ((queries @ weights["weight"]).unsqueeze(-1) * met).sum(dim=-2)
