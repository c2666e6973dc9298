"""The eviction knob: which entries stay?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View

Columns = dict[str, Tensor]  # name -> [batch, kv_heads, slots]: what a policy remembers of each entry


class Eviction(ABC):
    """Frees entries for good. Policies are stateless: what one remembers lies in columns beside the
    entries, which the store appends, gathers, crops, forks and reorders with them.
    """

    needs: Literal["nothing", "mass"] = "nothing"  # "mass": `observe` is given the attention received
    plain_keys: bool = False  # wants keys before rotation, because it gives them new positions

    def at(self, layer: int) -> Eviction | None:
        """The policy of one layer; None: this layer keeps everything."""
        return self

    def columns(self) -> dict[str, float]:
        """Columns to keep, with the value that a new entry starts from."""
        return {}

    def observe(  # noqa: B027 (a policy that needs nothing looks at nothing)
        self, queries: Tensor, mass: Tensor | None, view: View, step: Step, columns: Columns
    ) -> None:
        """Look at the step before choosing.

        queries: `[batch, heads, tokens, head_dim]` as attention used them; mass: attention probability
        that each entry received, summed over the new queries and the heads of its group
        `[batch, kv_heads, slots]`, where the policy `needs` it. Write to `columns` in place.
        """

    @abstractmethod
    def keep(self, view: View, step: Step, columns: Columns) -> Tensor | None:
        """Slots that stay, ascending, `[batch, 1 or kv_heads, n]`; None: all of them."""

    def rope(self, positions: Tensor, step: Step) -> tuple[Tensor, Tensor] | None:
        """New rotary positions (queries, keys), for a policy that closes the gaps it makes.

        positions: `[batch, 1 or kv_heads, slots]`, the new tokens included. Needs `plain_keys`.
        None: every entry stays at its own position.
        """
        return None
