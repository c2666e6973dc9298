"""The selection knob: which of the stored entries does a query read?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.selection.pattern import Pattern
    from kvlab.stores.base import Knobs, Step, View

NONE = -1  # in `Pick.rows`: nothing; heads and rows of a batch may pick different numbers of entries


@dataclass
class Pick:
    """The entries to read for one query token: whole pages, then single slots."""

    rows: Tensor  # [batch, 1 or kv_heads, n] slots; NONE: no entry
    bytes_scored: int = 0  # what choosing them read
    pages: Tensor | None = None  # [batch, kv_heads, m] pages of `page` slots each
    page: int = 1
    bias: Tensor | None = None  # [batch, kv_heads, query heads of the group, n] on the scores
    gaps: bool = False  # whether `rows` may hold NONE

    def slots(self) -> Tensor:
        """All slots in the order in which they are gathered, `[batch, 1 or kv_heads, m * page + n]`."""
        if self.pages is None:
            return self.rows
        whole = spread(self.pages, self.page)
        return torch.cat((whole, self.rows.expand(*whole.shape[:2], -1)), dim=-1)


class Selection(ABC):
    """Chooses entries for each query and drops none: what is not read now can be read later.

    A selection is stateless. What it needs to know of each entry, or of each page of entries, lies in the
    layer's `Index`, which calls `summarise` as entries come and follows them through crop, fork and reorder.
    """

    page: int = 0  # slots that one item of the index sums up; 0: it needs no index

    def at(self, layer: int) -> Selection | None:
        """The selection of one layer; None: this layer reads everything."""
        return self

    def runs(self, kv_heads: int) -> list[tuple[slice, Selection | None]]:
        """Runs of KV heads and what chooses for each; None: these heads read everything."""
        return [(slice(0, kv_heads), self)]

    def pattern(self) -> Pattern | None:
        """The fixed pattern that a prompt follows, too; None: a prompt is read in full."""
        return None

    def shapes_prompts(self, kv_heads: int) -> bool:
        """Whether any head follows a fixed pattern, so that a prompt too is not read in full."""
        return any(one is not None and one.pattern() is not None for _, one in self.runs(kv_heads))

    def refuse(self, knobs: Knobs, kv_heads: int) -> None:
        """Raise ValueError, in one sentence, where it cannot work with the other knobs of a layer."""
        eviction = knobs.eviction
        if self.page and eviction is not None and eviction.plain_keys:
            raise ValueError(
                f"{type(self).__name__} indexes keys as they are attended to, and {type(eviction).__name__} "
                "turns them to new positions at every step; use one without the other."
            )

    @abstractmethod
    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        """Choose for `queries [batch, heads, 1, head_dim]`; None: read everything.

        visible: `[batch, 1 or kv_heads, 1, slots]`, True where causality, padding and the layer's window
        allow a look. Called for single tokens only. `view.index` is the layer's index, up to date.
        """

    def constants(self, keys: Tensor, real: Tensor) -> dict[str, Tensor]:
        """What stays as the first entries made it, `[batch, kv_heads, ...]` (a mean, say).

        keys: `[batch, kv_heads, slots, head_dim]`; real: `[batch, 1 or kv_heads, slots]`, False: no token.
        """
        return {}

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        """The index's items of whole pages, each `[batch, kv_heads, slots / page, ...]`; see `constants`."""
        raise NotImplementedError(f"{type(self).__name__} keeps no index")

    def shared_tensors(self) -> list[Tensor]:
        """What all layers share and choosing needs (random directions); counted once in a cache's bytes."""
        return []


def spread(pages: Tensor, page: int) -> Tensor:
    """Slots of `pages [..., n]`: `[..., n * page]`."""
    return (pages.unsqueeze(-1) * page + torch.arange(page, device=pages.device)).flatten(-2)


def rows_where(mask: Tensor) -> Tensor:
    """Slots where `mask [batch, heads, slots]` is true, ascending, then NONE: `[batch, heads, n]`."""
    counts = mask.sum(dim=-1)
    n = max(1, int(counts.max()))
    if int(counts.min()) == n:
        return mask.nonzero()[:, 2].view(*mask.shape[:2], n)
    rows = torch.full((*mask.shape[:2], n), NONE, dtype=torch.int64, device=mask.device)
    batch, head, slot = mask.nonzero(as_tuple=True)
    rows[batch, head, (mask.cumsum(dim=-1) - 1)[mask]] = slot
    return rows


def grouped(queries: Tensor, kv_heads: int) -> Tensor:
    """`queries [batch, heads, 1, head_dim]` by KV head: `[batch, kv_heads, heads of the group, head_dim]`."""
    batch, _, _, dim = queries.shape
    return queries.view(batch, kv_heads, -1, dim)


def shares(scores: Tensor, visible: Tensor) -> Tensor:
    """One score for a group: its heads' softmax over what they see, summed.

    scores: `[batch, kv_heads, heads of the group, n]`; visible: `[batch, 1 or kv_heads, n]`; returns
    `[batch, kv_heads, n]`, -1 where nothing can be seen.
    """
    hidden = ~visible.unsqueeze(2)
    total = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1).nan_to_num().sum(dim=2)
    return total.masked_fill(hidden.squeeze(2), -1.0)
