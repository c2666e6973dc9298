"""A learned gate on pooled blocks of keys (SeerAttention)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, grouped
from kvlab.selection.trained import Trained, Weights

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View

PAGE = 16  # what the packaged gates were trained for


class Gate(Trained):
    """Each KV head reads the `pages` pages that its trained gate ranks highest, and the newest entries.

    SeerAttention (Gao et al., 2024): largest, smallest and mean key of a page go through one matrix, the
    queries of a group through another, and their product ranks the page. As there, the target in training
    is the model's own attention by page (summed here, its largest there). The paper pools before the rotary
    embedding; here keys are pooled as they are attended to, so that the gate can follow any cache. One
    vector of `gate_dim` numbers a page is kept and read.

    weights: as for `Indexer`; the tensors are query `[layers, kv_heads, group * head_dim, gate_dim]` and
    key `[layers, kv_heads, 3 * head_dim, gate_dim]`.

    Raises:
        ValueError: if `pages` is less than 1, there are no such weights, or they were trained for other
            layers.
    """

    kind = "gate"

    def __init__(
        self, pages: int = 16, weights: str | Path | Weights = "smollm2-135m", page_size: int = PAGE
    ):
        if pages < 1 or page_size < 1:
            raise ValueError(f"Gate needs pages >= 1 and page_size >= 1, not {pages} and {page_size}.")
        super().__init__(weights)
        self.pages, self.page = pages, page_size

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"page": small_pages(pooled(keys, real, self.page), self.on(keys))}

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        if index.pages <= self.pages:
            return None
        held = index["page"]  # [batch, kv_heads, pages, gate_dim]
        q = grouped(queries, held.shape[1]).flatten(2).unsqueeze(2)  # [batch, kv_heads, 1, group * head_dim]
        found = scores(q, held, self.on(queries)).squeeze(2)
        seen = visible[:, :, 0, : index.covered].unflatten(-1, (index.pages, self.page)).any(dim=-1)
        best = found.masked_fill(~seen, float("-inf")).topk(self.pages, dim=-1).indices.sort(dim=-1).values
        return Pick(index.newest(), held.nbytes, best, self.page)


def pooled(keys: Tensor, real: Tensor, page: int) -> Tensor:
    """Largest, smallest and mean of every channel by page, `[..., slots / page, 3 * head_dim]`.

    keys: `[..., slots, head_dim]`; real: bool `[..., slots]`, False: no token, left out. Zeros where a page
    holds no token.
    """
    x, some = keys.unflatten(-2, (-1, page)), real.unflatten(-1, (-1, page)).unsqueeze(-1)
    high = x.masked_fill(~some, float("-inf")).amax(dim=-2)
    low = x.masked_fill(~some, float("inf")).amin(dim=-2)
    mean = (x * some).sum(dim=-2) / some.sum(dim=-2).clamp(min=1)
    return torch.cat((high, low, mean), dim=-1).masked_fill(~some.any(dim=-2), 0.0)


def small_pages(pools: Tensor, weights: Weights) -> Tensor:
    """`pools [..., kv_heads, pages, 3 * head_dim]` -> `[..., kv_heads, pages, gate_dim]`."""
    return pools @ weights["key"]


def scores(queries: Tensor, held: Tensor, weights: Weights) -> Tensor:
    """`queries [..., kv_heads, rows, group * head_dim]` against `held` -> `[..., kv_heads, rows, pages]`."""
    return (queries @ weights["query"]) @ held.transpose(-1, -2) * held.shape[-1] ** -0.5
