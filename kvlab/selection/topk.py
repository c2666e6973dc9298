"""The oracle: score every key, then read the best values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.selection.base import Pick, Selection, grouped, shares

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class TopK(Selection):
    """Each KV head reads the `k` entries that its query heads together give the most attention.

    Nothing cheaper can choose better, but choosing reads every key: a yardstick for the methods that
    guess, not a saving by itself.

    Raises:
        ValueError: if `k` is less than 1.
    """

    def __init__(self, k: int = 64):
        if k < 1:
            raise ValueError(f"TopK needs k >= 1, not {k}.")
        self.k = k

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        if view.positions.shape[-1] <= self.k:
            return None
        keys = view.keys.read()  # [batch, kv_heads, slots, head_dim]
        scores = grouped(queries, keys.shape[1]) @ keys.transpose(-1, -2) * scale
        if view.bias is not None:  # the log count of merged entries
            scores = scores + view.bias.unsqueeze(2)
        best = shares(scores, visible.squeeze(2)).topk(self.k, dim=-1).indices
        return Pick(best.sort(dim=-1).values, bytes_scored=view.keys.nbytes)
