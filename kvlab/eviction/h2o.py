"""Heavy hitters: keep what has received most attention so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.eviction.base import Columns
from kvlab.eviction.scored import Scored

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class H2O(Scored):
    """Each KV head keeps its `recent` newest entries and those that received most attention in all.

    "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models" (Zhang et al.,
    2023). The attention probability that each entry receives is summed over all queries since it came,
    prompt included, and over the query heads that share it. It is the sum that counts, as in the paper, so
    an old entry has had more time to collect. One number beside each entry, 4 bytes, counted in `nbytes`.

    recent: None: half of the budget, as in the paper.

    Raises:
        ValueError: if `recent` is less than 1, or `budget` less than `recent`.
    """

    needs = "mass"

    def __init__(self, budget: int = 512, recent: int | None = None):
        super().__init__(budget, recent=max(1, budget // 2) if recent is None else recent)

    def columns(self) -> dict[str, float]:
        return {"received": 0.0}

    def observe(self, queries: Tensor, mass: Tensor | None, view: View, step: Step, columns: Columns) -> None:
        assert mass is not None  # it watches every query
        columns["received"] += mass

    def scores(self, view: View, step: Step, columns: Columns) -> Tensor:
        return columns["received"]
