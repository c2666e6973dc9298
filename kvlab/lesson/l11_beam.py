"""Beam search over a translator's cache, with the rows of the cache put in order or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import kvlab
from kvlab.model.translator import Encoded, Translator
from kvlab.translation.decode import LONGEST

Order = Literal["right", "not at all", "no cache"]


@dataclass(frozen=True)
class Beam:
    """One hypothesis."""

    ids: tuple[int, ...]  # without the start token, up to the end token
    score: float  # sum of the words' log probabilities


def search(lm: Translator, source: Encoded, to: str, beams: int = 4, order: Order = "right") -> list[Beam]:
    """The `beams` most probable translations of one source, best first.

    Every step keeps the best continuations of all beams together, so row i of the new beams may go on from
    any row of the old ones. order: whether the cache's rows follow ("right") or stay ("not at all"); "no
    cache" computes everything again and is what "right" must equal.
    """
    end, rows = lm.tokenizer.end, source.select([0] * beams)
    cache = None if order == "no cache" else kvlab.Cache(lm, store="cross")
    texts = torch.full((beams, 1), lm.tokenizer.start(to), device=lm.device)
    scores = torch.tensor([0.0] + [float("-inf")] * (beams - 1), device=lm.device)  # all begin alike
    while texts.shape[1] <= LONGEST and not bool((texts == end).any(dim=1).all()):
        given = texts if cache is None else texts[:, -1:]
        logits = lm(given, cache, last_only=True, source=rows)[:, -1]
        parents, words, scores = best(scores, logits.log_softmax(-1), texts[:, -1] == end, end)
        texts = torch.cat((texts[parents], words[:, None]), dim=1)
        if cache is not None and order == "right":
            cache.reorder(parents)
    return [Beam(_cut(text, end), float(score)) for text, score in zip(texts.tolist(), scores, strict=True)]


def best(scores: Tensor, log_p: Tensor, done: Tensor, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of all beams: parents, words and scores, each `[beams]`.

    scores: `[beams]`; log_p: `[beams, vocab]`; a beam that is done can only repeat its end, for nothing.
    """
    ended = torch.full_like(log_p, float("-inf"))
    ended[:, end] = 0.0
    total = scores[:, None] + torch.where(done[:, None], ended, log_p)
    top = total.flatten().topk(len(scores))
    return top.indices // log_p.shape[1], top.indices % log_p.shape[1], top.values


def _cut(text: list[int], end: int) -> tuple[int, ...]:
    text = text[1:]
    return tuple(text[: text.index(end) + 1] if end in text else text)


def damage(lm: Translator, sources: list[Encoded], to: str, order: Order, beams: int = 4) -> tuple[int, int]:
    """In how many sources some beam differs from those without a cache, and in how many the best one does."""
    some = first = 0
    for source in sources:
        right, found = (search(lm, source, to, beams, how) for how in ("no cache", order))
        some += [beam.ids for beam in right] != [beam.ids for beam in found]
        first += right[0].ids != found[0].ids
    return some, first
