"""Lesson 18: one text's queries and keys, and what dynamic choices find among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import kvlab
from kvlab.measure.quality_texts import windows
from kvlab.selection.hashing import Directions, nearest_direction, table_codes
from kvlab.selection.lsh import found_with
from kvlab.selection.quest import bounds, upper

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

FIRST = 2  # layers before this one read everything in Quest's paper: their attention is spread wide


@dataclass
class Scene:
    """Queries, keys and attention of a text after one pass, by layer.

    queries, attention: of the newest tokens, `[layers, kv_heads, group, n, …]`; keys: `[layers, kv_heads,
    tokens, head_dim]`; seen: bool `[n, tokens]`, what each of these queries may look at.
    """

    queries: Tensor
    keys: Tensor
    attention: Tensor
    seen: Tensor

    @property
    def scores(self) -> Tensor:
        """Query · key, `[layers, kv_heads, group, n, tokens]`; -inf where a query may not look."""
        raw = self.queries @ self.keys.unsqueeze(2).transpose(-1, -2)
        return raw.masked_fill(~self.seen, float("-inf"))


def text(lm: Decoder, tokens: int) -> Tensor:
    """The first `tokens` of the corpus, `[1, tokens]`."""
    return windows(lm, 1, tokens)


def scene(lm: Decoder, ids: Tensor, newest: int) -> Scene:
    """One pass over `ids [1, tokens]`; what its newest queries met."""
    with kvlab.record(lm) as rec:
        lm(ids, last_only=True)
    layers, kv, n = sorted(rec.keys), lm.config.num_key_value_heads, ids.shape[1]

    def of(parts: Mapping[int, Tensor]) -> Tensor:
        kept = [parts[layer][0, :, -newest:].unflatten(0, (kv, -1)) for layer in layers]
        return torch.stack(kept).float().cpu()

    keys = torch.stack([rec.keys[layer][0] for layer in layers]).float().cpu()
    seen = torch.arange(n) <= torch.arange(n - newest, n)[:, None]
    return Scene(of(rec.queries), keys, of(rec.attention), seen)


# --- the oracle -------------------------------------------------------------------------------------------


def needed(attention: Tensor, share: float) -> Tensor:
    """How few entries hold `share` of each query's attention `[…, tokens]`: the largest first."""
    held = attention.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    return ((held < share).sum(dim=-1) + 1).clamp(max=attention.shape[-1])


# --- pages ------------------------------------------------------------------------------------------------


def page_view(given: Scene, page: int) -> tuple[Tensor, Tensor, Tensor]:
    """For the last query, by page: bound, true best score, attention.

    Each `[layers, kv_heads, group, pages]`; the text has to be whole pages.
    """
    real = torch.ones(1, 1, given.keys.shape[2], dtype=torch.bool)
    bound = torch.stack([
        upper(q[None, :, :, -1], bounds(keys[None], real, page))[0]
        for q, keys in zip(given.queries, given.keys, strict=True)
    ])  # fmt: skip
    best = given.scores[..., -1, :].unflatten(-1, (-1, page)).amax(dim=-1)
    return bound, best, given.attention[..., -1, :].unflatten(-1, (-1, page)).sum(dim=-1)


def holds_best(bound: Tensor, best: Tensor, pages: int) -> float:
    """Share of heads whose best key lies in one of the `pages` pages with the largest bounds."""
    chosen = bound.topk(pages, dim=-1).indices
    return float((chosen == best.argmax(dim=-1, keepdim=True)).any(dim=-1).float().mean())


def caught(scores: Tensor, attention: Tensor, pages: int) -> float:
    """Mean share of attention in the `pages` pages that rank first."""
    return float(attention.gather(-1, scores.topk(pages, dim=-1).indices).sum(dim=-1).mean())


def lost(bound: Tensor, attention: Tensor, pages: int) -> Tensor:
    """Attention on the best `pages` pages, less that on those with the largest bounds: `[layers, heads]`."""
    chosen = attention.gather(-1, bound.topk(pages, dim=-1).indices).sum(dim=-1)
    return (attention.topk(pages, dim=-1).values.sum(dim=-1) - chosen).flatten(1)


# --- hashes -----------------------------------------------------------------------------------------------


def recall(ranks: Tensor, scores: Tensor, k: int) -> float:
    """Share of the k largest `scores [..., tokens]` that are among the k largest `ranks`."""
    true, guess = scores.topk(k, dim=-1).indices, ranks.topk(k, dim=-1).indices
    hit = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, guess, True).gather(-1, true)
    return float(hit.float().mean())


def simhash_recall(given: Scene, bits: int, k: int, centre: bool = True) -> float:
    """Share of the last query's k best keys among the k nearest by bits; the first layers are left out."""
    q, keys = given.queries[FIRST:, :, :, -1], given.keys[FIRST:]
    signs = Directions(bits, 0)(q)
    around = keys - keys.mean(dim=2, keepdim=True) if centre else keys
    agree = (q @ signs).sign() @ (around @ signs).sign().transpose(-1, -2)
    return recall(agree, q @ keys.transpose(-1, -2), k)


def bucket_recall(
    given: Scene, k: int, shared: bool = False, centre: bool = False, buckets: int = 16, rounds: int = 4
) -> tuple[float, float]:
    """Of the k best keys, and of all keys: the share that falls into the query's bucket in any round.

    shared: the key of each token is its query as well, as in Reformer; centre: keys around their mean.
    """
    keys = given.keys[FIRST:]
    if centre:
        keys = keys - keys.mean(dim=2, keepdim=True)
    if shared:
        q = keys[:, :, -given.seen.shape[0] :]  # [layers, kv_heads, n, head_dim]
        seen = given.seen & (torch.arange(keys.shape[2]) != given.seen.sum(-1, keepdim=True) - 1)
    else:
        q, seen = given.queries[FIRST:].flatten(2, 3), given.seen.repeat(given.queries.shape[2], 1)
    turn = Directions(rounds * buckets // 2, 0)(q)
    asked, held = nearest_direction(q, turn, rounds), nearest_direction(keys, turn, rounds)
    met = sum((asked[..., r, None] == held[:, :, None, :, r]).int() for r in range(rounds)) > 0
    assert isinstance(met, Tensor)
    met = met & seen
    best = (q @ keys.transpose(-1, -2)).masked_fill(~seen, float("-inf")).topk(k, dim=-1).indices
    return float(met.gather(-1, best).float().mean()), float((met.sum(-1) / seen.sum(-1)).mean())


def sampled_sums(
    given: Scene, layer: int, head: int, seeds: int, bits: int = 6, tables: int = 30
) -> tuple[float, float]:
    """Σ exp(score) over colliding keys, by the true sum, mean over seeds: weighted, and not."""
    kv, group = divmod(head, given.queries.shape[2])
    q, keys = given.queries[layer, kv, group, -1].double(), given.keys[layer, kv].double()
    around = keys - keys.mean(dim=0)
    weights = (around @ q / keys.shape[1] ** 0.5).exp()  # the mean takes the same from every score
    chance = found_with(around @ q / (around.norm(dim=-1) * q.norm()), bits, tables)
    weighted, plain = [], []
    for seed in range(seeds):
        signs = Directions(bits * tables, seed)(q)
        same = (table_codes(around, signs, tables) == table_codes(q, signs, tables)).sum(dim=-1) >= 2
        weighted.append(float((weights / chance)[same].sum() / weights.sum()))
        plain.append(float(weights[same].sum() / weights.sum()))
    return sum(weighted) / seeds, sum(plain) / seeds
