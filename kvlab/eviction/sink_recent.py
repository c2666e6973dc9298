"""Keep the first few tokens and the newest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.eviction.base import Columns, Eviction
from kvlab.eviction.choosing import packed, protected

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class SinkRecent(Eviction):
    """The first `sinks` tokens and the last `recent` of each sequence stay, at their own positions.

    The sinks are the tokens that heads attend to when they have nothing to say (StreamingLLM, Xiao et
    al., 2023); that paper also closes the gap in the rotary positions, which this policy does not.

    Raises:
        ValueError: if `sinks` is negative or `recent` less than 1.
    """

    def __init__(self, sinks: int = 4, recent: int = 252):
        if sinks < 0 or recent < 1:
            raise ValueError(f"SinkRecent needs sinks >= 0 and recent >= 1, not {sinks} and {recent}.")
        self.sinks, self.recent = sinks, recent

    def keep(self, view: View, step: Step, columns: Columns) -> Tensor | None:
        held = view.positions  # [batch, 1 or kv_heads, slots]
        if held.shape[-1] <= self.sinks + self.recent:
            return None
        return packed(protected(held, step, self.sinks, self.recent))
