"""A budget that the heads of a layer share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kvlab.eviction.choosing import best, packed
from kvlab.eviction.snapkv import SnapKV


class AdaKV(SnapKV):
    """SnapKV's scores, but one choice over all KV heads of a layer: `budget` is the average of the heads.

    "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation" (Feng et al., 2024). A head whose
    attention is spread keeps more, one that looks at few tokens less; each keeps its window and at least
    `floor` of the budget. Heads then hold different numbers of entries, and a store whose tensors are
    rectangular fills the shorter ones up to the longest: `nbytes` counts that filling. The paper needs a
    kernel for ragged heads to save it.

    Raises:
        ValueError: as in `SnapKV`, and if `floor` is not between 0 and 1.
    """

    def __init__(
        self,
        budget: int = 512,
        window: int = 32,
        kernel: int = 5,
        pool: Literal["avg", "max"] = "avg",
        floor: float = 0.2,
    ):
        super().__init__(budget, window, kernel, pool)
        if not 0 <= floor <= 1:
            raise ValueError(
                f"floor is the part of the budget that each head is sure of: 0 to 1, not {floor}."
            )
        self.floor = floor

    def choose(self, scores: Tensor, safe: Tensor, positions: Tensor) -> Tensor:
        heads = scores.shape[1]
        sure = max(self.window, int(self.floor * self.budget))
        scores = scores.masked_fill(safe, float("inf"))
        mine = best(scores, positions, sure)  # [batch, kv_heads, sure]
        taken = mine.clamp(min=0)
        scores = scores.scatter(-1, taken, scores.gather(-1, taken).masked_fill(mine >= 0, float("inf")))
        chosen = best(scores.flatten(1)[:, None], positions.flatten(1)[:, None], heads * self.budget)
        stays = scores.new_zeros(scores.shape[0], scores.shape[1] * scores.shape[2]).bool()
        stays.scatter_(-1, chosen[:, 0].clamp(min=0), True)
        return packed(stays.view_as(scores) & (positions >= 0))
