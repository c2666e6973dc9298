"""Score every key by a few channels, those where the query is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, Selection, grouped, shares

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class SparQ(Selection):
    """SparQ attention (Ribar et al., 2023): rank all keys by the `r` channels where |q| is largest, read `k`.

    Reading some channels of keys that lie row by row would fetch whole rows, so the keys are kept a second
    time, channel by channel in pages of 16: half as much again as the cache, and counted. The softmax of
    the scores is cooled as in the paper, by the share of |q| that the chosen channels hold. The heads of a
    group choose their channels together. Left out: the paper's mean value for what was not read. The
    newest entries, up to 16, are read always.

    Raises:
        ValueError: if `r` or `k` is less than 1.
    """

    page = 16

    def __init__(self, r: int = 16, k: int = 128):
        if r < 1 or k < 1:
            raise ValueError(f"SparQ needs r >= 1 and k >= 1, not {r} and {k}.")
        self.r, self.k = r, k

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        # [batch, kv_heads, pages, head_dim, page]: the 16 numbers of a channel lie side by side
        return {"channels": keys.unflatten(2, (-1, self.page)).transpose(-1, -2).contiguous()}

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        if index.covered <= self.k:
            return None
        held = index["channels"]
        q = grouped(queries, held.shape[1])  # [batch, kv_heads, group, head_dim]
        best = largest(q, self.r)
        some = _channels(held, best)  # [batch, kv_heads, pages, r, page]
        part, weight = part_of(q, best)
        scores = torch.einsum("bhgr,bhprs->bhgps", part, some).flatten(-2) * scale / weight
        rows = shares(scores, visible[:, :, 0, : index.covered]).topk(self.k, dim=-1).indices
        rows = rows.sort(dim=-1).values
        rest = index.newest().expand(*rows.shape[:2], -1)
        return Pick(torch.cat((rows, rest), dim=-1), some.nbytes)


def largest(queries: Tensor, r: int) -> Tensor:
    """The `r` channels where a group's |q| add up to most, `[batch, kv_heads, r]`; all, if there are fewer.

    queries: `[batch, kv_heads, group, head_dim]`.
    """
    return queries.abs().sum(dim=2).topk(min(r, queries.shape[-1]), dim=-1).indices


def part_of(queries: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """The queries' numbers in their `channels [batch, kv_heads, r]`, and what cools their scores.

    `[batch, kv_heads, group, r]` and `[batch, kv_heads, group, 1]`: the root of the share of |q| that these
    channels hold. queries: as in `largest`.
    """
    part = queries.gather(-1, channels.unsqueeze(2).expand(-1, -1, queries.shape[2], -1))
    share = part.abs().sum(dim=-1, keepdim=True) / queries.abs().sum(dim=-1, keepdim=True)
    return part, share.sqrt().clamp(min=1e-6)


def _channels(held: Tensor, which: Tensor) -> Tensor:
    """`held [batch, kv_heads, pages, head_dim, page]` at the channels `which [batch, kv_heads, r]`."""
    heads = [
        torch.stack([part.index_select(1, chosen) for part, chosen in zip(row, picks, strict=True)])
        for row, picks in zip(held, which, strict=True)
    ]
    return torch.stack(heads)
