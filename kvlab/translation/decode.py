"""Greedy translation of a batch: the most likely word, until every row has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.stores.base import Store
from kvlab.translation.words import Words

if TYPE_CHECKING:
    from kvlab.model.translator import Encoded, Translator

LONGEST = 16  # words; the longest number below 100,000 has eleven


def translated(lm: Translator, texts: list[str], to: str, store: str | Store = "cross") -> list[str]:
    """`Translator.translate`, for a list of texts."""
    words: Words = lm.tokenizer
    start = words.start(to)
    if not texts:
        return []
    ids, mask = batch([words.encode(text, to) for text in texts], lm.device)
    rows = greedy(lm, lm.encode(ids, mask), start, words.end, Cache(lm, store=store))
    return [words.decode(row, to) for row in rows.tolist()]


def batch(rows: list[list[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor `[batch, longest]`, padded on the right, and its mask (False: padding)."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]


@torch.no_grad()
def greedy(
    lm: Translator, source: Encoded, start: int, end: int, cache: Cache, longest: int = LONGEST
) -> Tensor:
    """Ids `[batch, words]` that follow `start`, each row up to its end token; after it anything."""
    new = torch.full((len(source.ids), 1), start, device=lm.device)
    done = torch.zeros(len(source.ids), dtype=torch.bool, device=lm.device)
    out: list[Tensor] = []
    while len(out) < longest and not bool(done.all()):
        new = lm(new, cache, last_only=True, source=source).argmax(dim=-1)  # [batch, 1]
        out.append(new)
        done |= new[:, 0] == end
    return torch.cat(out, dim=1)
