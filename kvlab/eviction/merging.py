"""Several entries become one, which remembers how many it stands for."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.eviction.base import Columns, Eviction, Merged
from kvlab.eviction.choosing import FREE, most_held, packed, protected
from kvlab.stores.buffer import gather_slots

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class Merging(Eviction):
    """Each KV head lays its entries in a line and cuts it at the weakest links, into `budget` pieces.

    The entries of a piece become one: the mean of their keys and of their values, weighted by how many
    tokens each stands for. Its score then gets log(count) added: n equal keys together take part in the
    softmax with n · exp(score), and one entry must do the same. Where the merged keys are equal this is
    exact; the farther apart they are, the more is lost. The first `sinks` and the last `recent` tokens are
    never merged. Keys are averaged before the rotary embedding, and the new one lies at the position of its
    newest token, so a `crop` that takes that token back takes the whole entry.

    Every merge writes all entries anew: a codec that encodes blocks then rounds them once more. In a layer
    with a window, a merged entry is seen for as long as its newest token is; leave such layers out (`Only`).

    counted: False leaves log(count) out, to see what that costs.

    Raises:
        ValueError: if `sinks` is negative, `recent` less than 1, or `budget` not more than both together.
    """

    plain_keys = True
    merges = True

    def __init__(self, budget: int, sinks: int = 4, recent: int = 32, counted: bool = True):
        name = type(self).__name__
        if sinks < 0 or recent < 1:
            raise ValueError(f"{name} needs sinks >= 0 and recent >= 1, not {sinks} and {recent}.")
        if budget <= sinks + recent:
            raise ValueError(
                f"{name} never merges {sinks} sinks and {recent} recent entries, and a budget of {budget} "
                f"has no room for others; give budget > {sinks + recent}."
            )
        self.budget, self.sinks, self.recent, self.counted = budget, sinks, recent, counted

    @abstractmethod
    def line(self, keys: Tensor, loose: Tensor) -> tuple[Tensor, Tensor]:
        """The order of the line, and how alike neighbours are.

        keys: `[batch, kv_heads, slots, head_dim]`, plain; loose: `[batch, kv_heads, slots]`, True where an
        entry may be merged. Returns slots `[batch, kv_heads, slots]` and links `[batch, kv_heads,
        slots - 1]`, the higher the more alike; both as if all could be merged.
        """

    def columns(self) -> dict[str, float]:
        return {"count": 1.0}

    def keep(self, view: View, step: Step, columns: Columns) -> None:
        return None

    def bias(self, columns: Columns, dtype: torch.dtype) -> Tensor | None:
        return columns["count"].to(dtype).log() if self.counted else None

    def merge(self, keys: Tensor, values: Tensor, view: View, step: Step, columns: Columns) -> Merged | None:
        if most_held(view.positions) <= self.budget:
            return None
        count = columns["count"]
        positions = view.positions.expand_as(count)
        loose = (positions >= 0) & ~protected(positions, step, self.sinks, self.recent)
        order, links = self.line(keys, loose)
        piece = self._pieces(order, links, loose, positions)
        newest, rows = _newest(piece, positions)
        weight = count.to(keys.dtype).masked_fill(positions < 0, 0)
        total = _sums(weight.unsqueeze(-1), piece)
        places = newest.clamp(min=0)
        mean = [
            gather_slots(_sums(x * weight.unsqueeze(-1), piece) / total.clamp(min=1), places)
            for x in (keys, values)
        ]
        counts = gather_slots(total, places).squeeze(-1).masked_fill(newest < 0, 1).to(count.dtype)
        return Merged(rows, mean[0], mean[1], {"count": counts})

    def _pieces(self, order: Tensor, links: Tensor, loose: Tensor, positions: Tensor) -> Tensor:
        """Which piece each slot belongs to, `[batch, kv_heads, slots]`."""
        free = gather_slots(loose, order)
        links = links.masked_fill(~(free[..., 1:] & free[..., :-1]), float("-inf"))
        held = (positions >= 0).sum(dim=-1, keepdim=True)
        rank = links.argsort(dim=-1, descending=True).argsort(dim=-1)  # 0: the strongest link
        joined = (rank < held - self.budget) & (links > float("-inf"))
        along = torch.zeros_like(order)
        along[..., 1:] = (~joined).cumsum(dim=-1)
        return torch.empty_like(order).scatter_(-1, order, along)


def _newest(piece: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The pieces that hold tokens, by their newest one, and that token's slot; `[batch, kv_heads, n]` each.

    Ascending by slot, FREE at the end of shorter rows.
    """
    last = torch.full_like(piece, FREE).scatter_reduce(-1, piece, positions.long(), "amax")
    rows = packed((positions >= 0) & (last.gather(-1, piece) == positions))
    pieces = piece.gather(-1, rows.clamp(min=0)).masked_fill(rows < 0, FREE)
    return pieces, rows


def _sums(x: Tensor, piece: Tensor) -> Tensor:
    """Sum of `x [batch, kv_heads, slots, dim]` over each piece, in the same shape."""
    return torch.zeros_like(x).scatter_add(2, piece.unsqueeze(-1).expand_as(x), x)
