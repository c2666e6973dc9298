"""Sinks and recent tokens, with the gap between them closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.eviction.sink_recent import SinkRecent

if TYPE_CHECKING:
    from kvlab.stores.base import Step


class StreamingLLM(SinkRecent):
    """The first `sinks` tokens and the last `recent` stay, at positions counted inside the cache.

    "Efficient Streaming Language Models with Attention Sinks" (Xiao et al., 2023), whose default is 4
    sinks: the tokens that heads attend to when they have nothing to say. After an eviction the entries
    are numbered 0, 1, 2 … anew, so no distance ever exceeds the budget and a text may be longer than any
    the model was trained on. Keys are therefore stored plain and rotated when they are read. Which
    entries may be seen is still decided by the true positions.

    Raises:
        ValueError: if `sinks` is negative or `recent` less than 1.
    """

    plain_keys = True

    def rope(self, positions: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        place = ((positions >= 0).cumsum(dim=-1) - 1).clamp(min=0)  # [batch, 1 or kv_heads, slots]
        return place[..., -step.tokens :], place
