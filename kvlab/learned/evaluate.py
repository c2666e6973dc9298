"""How much of the attention a choice of entries holds, on text that was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kvlab.learned.capture import Capture
from kvlab.learned.train import by_page, gate_inputs
from kvlab.selection import gate, indexer
from kvlab.selection.quest import bounds, upper
from kvlab.selection.trained import Weights

SINKS = 4
FROM = 512  # rows before this position see too little for a share of it to mean anything


@dataclass
class Ranking:
    """In which order a method would read the entries, or pages of them, of one window.

    scores: `[layers, (kv_heads,) rows, items]`, read from the largest on; attention: the same shape, each
    row's attention, summing to 1; seen: bool `[rows, items]`; page: entries in an item.
    """

    scores: Tensor
    attention: Tensor
    seen: Tensor
    page: int = 1

    def mass(self, share: float, entries: Tensor) -> Tensor:
        """Mean attention on a share of the `entries [rows]` that each row sees, `[layers]`."""
        budget = (entries * share).long().clamp(min=SINKS + 1) // self.page
        chosen = torch.arange(self.seen.shape[-1]) < budget.clamp(min=1)[:, None]  # [rows, items], by rank
        held = (self._ranked * chosen).sum(dim=-1).mean(dim=-1)
        return held if held.dim() == 1 else held.mean(dim=1)

    @cached_property
    def _ranked(self) -> Tensor:
        order = self.scores.masked_fill(~self.seen, float("-inf")).argsort(dim=-1, descending=True)
        return self.attention.gather(-1, order)


@dataclass
class Judge:
    """How the methods rank the entries of one held-out window; only rows that see enough count."""

    lesson: Capture
    page: int = gate.PAGE

    def __post_init__(self) -> None:
        self.rows = (self.lesson.at >= FROM).nonzero().flatten()
        self.seen = self.lesson.seen[self.rows]  # [rows, tokens]
        self.entries = self.seen.sum(dim=-1)
        attention = self.lesson.attention[:, :, self.rows]
        self.by_head = attention / attention.sum(dim=-1, keepdim=True)  # [layers, kv_heads, rows, tokens]
        self.whole = self.by_head.mean(dim=1)

    def mass(self, ranking: Ranking, share: float) -> Tensor:
        """What a ranking holds of the attention, `[layers]`."""
        return ranking.mass(share, self.entries)

    def rankings(self, trained: dict[str, Weights]) -> Iterator[tuple[str, Ranking]]:
        """Every method's name and ranking, one at a time; of the learned ones those in `trained`."""
        yield "oracle", self.oracle()
        yield "oracle by head", self.oracle_by_head()
        yield "sinks + recent", self.sinks_and_recent()
        if "indexer" in trained:
            yield "indexer", self.indexer(trained["indexer"])
        yield "Quest", self.quest()
        if "gate" in trained:
            yield "gate", self.gate(trained["gate"])

    def oracle(self) -> Ranking:
        """The best entries for all heads of a layer together."""
        return Ranking(self.whole, self.whole, self.seen)

    def oracle_by_head(self) -> Ranking:
        """The best for each KV head."""
        return Ranking(self.by_head, self.by_head, self.seen)

    def sinks_and_recent(self) -> Ranking:
        """The first tokens, then the newest."""
        tokens = self.lesson.keys.shape[1]
        order = torch.arange(tokens, dtype=self.whole.dtype)
        order[:SINKS] += tokens
        return Ranking(order.expand_as(self.whole), self.whole, self.seen)

    def indexer(self, weights: Weights) -> Ranking:
        """As a trained indexer scores."""
        held = indexer.small_keys(self.lesson.keys, weights)
        return Ranking(
            indexer.scores(self.lesson.queries[:, self.rows], held, weights), self.whole, self.seen
        )

    def gate(self, weights: Weights) -> Ranking:
        """Pages, as a trained gate scores them."""
        return self._pages(gate.scores(*gate_inputs(self.lesson, self.rows, weights, self.page), weights))

    def quest(self) -> Ranking:
        """Pages, by the bounds of their keys; the heads of a group add their softmax."""
        kv_heads, page = self.by_head.shape[1], self.page
        keys = self.lesson.keys.unflatten(-1, (kv_heads, -1)).transpose(1, 2)
        keys = keys[:, :, : keys.shape[2] // page * page]
        edges = bounds(keys, torch.ones(keys.shape[:-1], dtype=torch.bool), page)
        q = self.lesson.queries[:, self.rows].unflatten(-1, (kv_heads, -1, keys.shape[-1]))
        q = q.permute(0, 2, 3, 1, 4)  # [layers, kv_heads, group, rows, head_dim]
        limits = torch.stack([upper(group, edges) for group in q.unbind(dim=2)], dim=2)
        hidden = by_page(self.seen, page) == 0
        limits = (limits * keys.shape[-1] ** -0.5).masked_fill(hidden, float("-inf"))
        return self._pages(limits.softmax(dim=-1).sum(dim=2))

    def _pages(self, scores: Tensor) -> Ranking:
        attention, seen = by_page(self.by_head, self.page), by_page(self.seen, self.page) > 0
        return Ranking(scores, attention, seen, self.page)


def mass_by_layer(
    lessons: Sequence[Capture], shares: Sequence[float], trained: dict[str, Weights], page: int = gate.PAGE
) -> dict[str, dict[float, list[float]]]:
    """method -> share of the entries -> mean attention held, by layer.

    trained: "indexer" and "gate", those that there are. Beside them: the oracle (the same entries for all
    heads, and for each KV head), sinks and recent tokens, and Quest. Each method reads so many entries: what
    works by page reads whole pages.
    """
    sums: dict[str, dict[float, Tensor]] = {}
    for lesson in lessons:
        judge = Judge(lesson, page)
        for name, ranking in judge.rankings(trained):
            so_far = sums.setdefault(name, {})
            for share in shares:
                so_far[share] = so_far.get(share, torch.zeros(())) + judge.mass(ranking, share)
    return {
        name: {share: (total / len(lessons)).tolist() for share, total in by.items()}
        for name, by in sums.items()
    }
