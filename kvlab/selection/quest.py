"""Pages of keys, each bounded by its smallest and largest numbers; read those that may matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, Selection, grouped, shares

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class Quest(Selection):
    """Quest (Tang et al., 2024): each KV head reads the `pages` pages whose best key could score highest.

    Of each page of `page_size` keys two vectors are kept, minimum and maximum of every channel. No key of
    the page can score more than Σ max(q·min, q·max): a bound that costs 2 / page_size of reading the keys.
    The heads of a group add their softmax over the bounds. The newest entries, up to a page, are read
    always. The `first` layers read everything: their attention is spread wide.

    Raises:
        ValueError: if `page_size` or `pages` is less than 1, or `first` negative.
    """

    def __init__(self, page_size: int = 16, pages: int = 32, first: int = 2):
        if page_size < 1 or pages < 1 or first < 0:
            raise ValueError(
                "Quest needs page_size >= 1, pages >= 1 and first >= 0, not "
                f"{page_size}, {pages} and {first}."
            )
        self.page, self.pages, self.first = page_size, pages, first

    def at(self, layer: int) -> Selection | None:
        return None if layer < self.first else self

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"bounds": bounds(keys, real, self.page)}

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        if index.pages <= self.pages:
            return None
        held = index["bounds"]  # [batch, kv_heads, pages, 2 * head_dim]
        seen = visible[:, :, 0, : index.covered].unflatten(-1, (index.pages, self.page)).any(dim=-1)
        scores = upper(grouped(queries, held.shape[1]), held) * scale
        best = shares(scores, seen).topk(self.pages, dim=-1).indices.sort(dim=-1).values
        return Pick(index.newest(), held.nbytes, best, self.page)


def bounds(keys: Tensor, real: Tensor, page: int) -> Tensor:
    """Minimum and maximum of every channel, page by page: `[batch, kv_heads, slots / page, 2 * head_dim]`.

    keys: `[batch, kv_heads, slots, head_dim]`; real: `[batch, 1 or kv_heads, slots]`, False: no token, left
    out. A page without any token is bounded by zeros.
    """
    x = keys.unflatten(2, (-1, page))
    if bool(real.all()):
        return torch.cat((x.amin(dim=3), x.amax(dim=3)), dim=-1)
    some = real.unflatten(2, (-1, page)).unsqueeze(-1)  # [batch, 1 or kv_heads, pages, page, 1]
    low = x.masked_fill(~some, float("inf")).amin(dim=3)
    high = x.masked_fill(~some, float("-inf")).amax(dim=3)
    return torch.cat((low, high), dim=-1).masked_fill(~some.any(dim=3), 0.0)


def upper(queries: Tensor, held: Tensor) -> Tensor:
    """Σ max(q·min, q·max), more than any key of the page can score: `[batch, kv_heads, group, pages]`.

    queries: `[batch, kv_heads, group, head_dim]`; held: as `bounds` returns. Negative parts of a query meet
    the minima and positive ones the maxima, so one matrix product does it.
    """
    halves = torch.cat((queries.clamp(max=0), queries.clamp(min=0)), dim=-1)
    return (held @ halves.transpose(-1, -2)).transpose(-1, -2)  # tall times narrow: twice as fast on a CPU
