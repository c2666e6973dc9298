"""Keep what the end of the prompt attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor

from kvlab.eviction.base import Columns, Eviction
from kvlab.eviction.choosing import best, most_held, protected

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class SnapKV(Eviction):
    """After the prompt each KV head keeps the last `window` entries and those that their queries look at.

    "SnapKV: LLM Knows What You are Looking for Before Generation" (Li et al., 2024). The attention of the
    last `window` queries is summed, over the heads of a group too, and pooled over `kernel` neighbours (the
    paper says max, its code takes the average), so that whole phrases stay; the best entries fill up
    `budget`.

    It acts once: at the first chunk of at least `window` tokens that leaves more than the budget. So pass
    the prompt as one chunk; all that comes later is kept. Whether the question was in that chunk decides
    what it can answer: with it the policy knows what will be asked (question-aware), and one compressed
    prompt serves one question; without it (question-agnostic) it must guess. Say which, with every result.

    Raises:
        ValueError: if `window` is less than 1, `kernel` not odd, `pool` unknown, or `budget` not more than
            `window`.
    """

    needs = "mass"

    def __init__(
        self, budget: int = 512, window: int = 32, kernel: int = 5, pool: Literal["avg", "max"] = "avg"
    ):
        name = type(self).__name__
        if window < 1 or kernel < 1 or kernel % 2 == 0 or pool not in ("avg", "max"):
            raise ValueError(
                f'{name} needs window >= 1, an odd kernel and pool "avg" or "max", '
                f"not {window}, {kernel} and {pool!r}."
            )
        if budget <= window:
            raise ValueError(
                f"{name} always keeps the {window} entries of its window, and a budget of {budget} leaves no "
                f"room for others; give budget > {window}."
            )
        self.budget, self.window, self.kernel, self.pool = budget, window, kernel, pool

    def watches(self, view: View, step: Step) -> int:
        return self.window if self._due(view, step) else 0

    def _due(self, view: View, step: Step) -> bool:
        whole = view.positions is step.ledger  # nothing has been evicted here so far
        return whole and step.tokens >= self.window and most_held(view.positions) > self.budget

    def keep(self, view: View, step: Step, columns: Columns) -> Tensor | None:
        if view.mass is None:
            return None
        positions = view.positions.expand(-1, view.mass.shape[1], -1)
        safe = protected(positions, step, sinks=0, recent=self.window)
        return self.choose(self.pooled(view.mass.masked_fill(safe, 0)), safe, positions)

    def pooled(self, mass: Tensor) -> Tensor:
        """Each score from its own mass and that of its neighbours, `[batch, kv_heads, slots]`."""
        pool = F.avg_pool1d if self.pool == "avg" else F.max_pool1d
        return pool(mass, self.kernel, stride=1, padding=self.kernel // 2)

    def choose(self, scores: Tensor, safe: Tensor, positions: Tensor) -> Tensor:
        """Slots to keep; all `[batch, kv_heads, slots]`."""
        return best(scores.masked_fill(safe, float("inf")), positions, self.budget)
