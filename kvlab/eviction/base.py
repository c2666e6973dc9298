"""The eviction knob: which entries stay?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View

Columns = dict[str, Tensor]  # name -> [batch, kv_heads, slots]: what a policy remembers of each entry


@dataclass
class Merged:
    """What a layer holds after a merge: every entry anew, each in the place of one of those it is made of."""

    rows: Tensor  # [batch, kv_heads, n] slots whose positions and columns stay, ascending; -1: none
    keys: Tensor  # [batch, kv_heads, n, head_dim]
    values: Tensor  # [batch, kv_heads, n, head_dim]
    columns: Columns  # [batch, kv_heads, n] each: those that are not simply those of `rows`


class Eviction(ABC):
    """Frees entries for good. Policies are stateless: what one remembers lies in columns beside the
    entries, which the store appends, gathers, crops, forks and reorders with them.
    """

    needs: Literal["nothing", "mass"] = "nothing"  # "mass": `observe` is given the attention received
    plain_keys: bool = False  # wants keys before rotary: to give them new positions, or to average them
    merges: bool = False  # whether `merge` and `bias` are called

    def at(self, layer: int) -> Eviction | None:
        """The policy of one layer; None: this layer keeps everything."""
        return self

    def columns(self) -> dict[str, float]:
        """Columns to keep, with the value that a new entry starts from."""
        return {}

    def watches(self, view: View, step: Step) -> int:
        """Of how many of the newest queries it wants to know the attention; it costs a look at all keys."""
        return step.tokens if self.needs == "mass" else 0

    def observe(  # noqa: B027 (a policy that needs nothing looks at nothing)
        self, queries: Tensor, mass: Tensor | None, view: View, step: Step, columns: Columns
    ) -> None:
        """Look at the step before choosing.

        queries: `[batch, heads, tokens, head_dim]` as attention used them; mass: attention probability
        that each entry received, summed over the queries that it `watches` and the heads of its group
        `[batch, kv_heads, slots]`; None where it watches none. `view.mass` is the same, for `keep`. Write
        to `columns` in place.
        """

    @abstractmethod
    def keep(self, view: View, step: Step, columns: Columns) -> Tensor | None:
        """Slots that stay, ascending, `[batch, 1 or kv_heads, n]`; None: all of them."""

    def merge(self, keys: Tensor, values: Tensor, view: View, step: Step, columns: Columns) -> Merged | None:
        """Entries to hold instead of those held; None: no change. Called after `keep` has said None.

        keys, values: `[batch, kv_heads, slots, head_dim]`, decoded; keys unrotated if `plain_keys`.
        """
        return None

    def bias(self, columns: Columns, dtype: torch.dtype) -> Tensor | None:
        """What is added to the score of each entry, `[batch, kv_heads, slots]`: the log of its count."""
        return None

    def rope(self, positions: Tensor, step: Step) -> tuple[Tensor, Tensor] | None:
        """New rotary positions (queries, keys), for a policy that closes the gaps it makes.

        positions: `[batch, 1 or kv_heads, slots]`, the new tokens included. Needs `plain_keys`.
        None: every entry stays at its own position.
        """
        return None
