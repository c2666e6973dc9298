"""Lesson 16: one prompt whose attention is remembered, so that each policy can say who stays; the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kvlab
from kvlab.eviction import Eviction
from kvlab.measure.quality_runs import Factory
from kvlab.measure.quality_stats import each_needle
from kvlab.stores import Step, View

from .again import kl_of_first_text
from .chart_points import Point
from .recorded import Recorded
from .style import token_text

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

NEEDLES = ("71432", "58206")
BEFORE = (
    "The harbour lies below the old town, and every morning the boats come in with the tide. Men carry the "
    "boxes up the steps, women weigh the fish and write the numbers into a book, and by nine o'clock the "
    "market is full of people who talk about the weather. Nobody hurries. In winter the wind comes from the "
    "north and the boats stay where they are, tied to the wall with two ropes each."
)
BETWEEN = (
    "In summer the ferry brings visitors who ask the way to the castle, although it can be seen from "
    "everywhere. They drink coffee in the square, they buy a picture of a boat, and they leave again with "
    "the evening ferry. The old keeper of the lighthouse sells them the tickets. He has lived on the island "
    "for sixty years, and he knows the name of every rock between here and the mainland."
)
AFTER = (
    "At night the light turns slowly over the water. From the window of the school one can count the "
    "seconds between two flashes, and the children learn to count that way. When the fog comes, the bell "
    "at the end of the wall rings by itself, moved by the waves, and the whole town sleeps to its sound."
)
PROMPT = (
    f"{BEFORE}\nThe pass key is {NEEDLES[0]}.\n{BETWEEN}\n"
    f"The special magic number for Paris is: {NEEDLES[1]}.\n{AFTER}"
)


@dataclass
class _Heads:
    """All that a policy reads of a stream here: its shape."""

    x: Tensor

    def read(self) -> Tensor:
        return self.x


class Watched:
    """A prompt after one pass: what every query of every layer attended to, and the needles in the text."""

    def __init__(self, lm: Decoder, text: str = PROMPT) -> None:
        self.ids = lm.tokenizer.encode(text)
        self.words = [token_text(lm.tokenizer.token(i)) for i in self.ids]
        with torch.no_grad(), kvlab.record(lm) as rec:
            lm(torch.tensor([self.ids], device=lm.device), last_only=True)
        kv, n = lm.config.num_key_value_heads, len(self.ids)
        self.layers = lm.config.num_hidden_layers
        # by KV head, its query heads added up: [kv_heads, queries, tokens] for each layer
        self.attention = [rec.attention[i][0].view(kv, -1, n, n).sum(dim=1).cpu() for i in range(self.layers)]
        pieces = [lm.tokenizer.decode([i]) for i in self.ids]
        self.needles = [span for span in (_span(pieces, number) for number in NEEDLES) if span]

    def mass(self, layer: int, newest: int) -> Tensor:
        """Attention that each token received from the newest queries, `[1, kv_heads, tokens]`."""
        return self.attention[layer][:, -newest:].sum(dim=1).unsqueeze(0)

    def kept(self, policy: Eviction, layer: int) -> Tensor:
        """Who stays after this prompt, bool `[kv_heads, tokens]`: the policy says so, as to a cache."""
        mine, n, heads = policy.at(layer), len(self.ids), self.attention[0].shape[0]
        if mine is None:
            return torch.ones(heads, n, dtype=torch.bool)
        positions = torch.arange(n).view(1, 1, n)
        step = Step(torch.tensor([self.ids]), positions[0], positions[0, 0], positions, in_order=True)
        stream: Any = _Heads(torch.empty(1, heads, n, 0))
        view = View(stream, stream, positions)
        watched = mine.watches(view, step)
        view.mass = self.mass(layer, watched) if watched else None
        columns = {name: torch.full((1, heads, n), fill) for name, fill in mine.columns().items()}
        mine.observe(stream.x, view.mass, view, step, columns)
        rows = mine.keep(view, step, columns)
        stays = torch.zeros(heads, n + 1, dtype=torch.bool)  # one more for -1, "none"
        if rows is None:
            return ~stays[:, :n]
        return stays.scatter(1, rows[0].expand(heads, -1) % (n + 1), True)[:, :n]

    def needle_share(self, policy: Eviction) -> float:
        """How much of the needles' digits is still there, over all layers and heads."""
        digits = [i for span in self.needles for i in range(*span)]
        kept = torch.stack([self.kept(policy, layer)[:, digits] for layer in range(self.layers)])
        return float(kept.float().mean())


def _span(pieces: list[str], number: str) -> tuple[int, int] | None:
    """Where the tokens of a number begin and end."""
    for start in range(len(pieces)):
        for stop in range(start + 1, min(len(pieces), start + len(number)) + 1):
            if "".join(pieces[start:stop]).strip() == number:
                return start, stop
    return None


def policies(budget: int, layers: int) -> dict[str, Eviction]:
    """What the lesson compares, each with so many entries a head."""
    window = min(32, budget // 2)
    return {
        "Window": kvlab.Window(budget),
        "StreamingLLM": kvlab.StreamingLLM(4, budget - 4),
        "H2O": kvlab.H2O(budget),
        "TOVA": kvlab.TOVA(budget),
        "SnapKV": kvlab.SnapKV(budget, window),
        "AdaKV": kvlab.AdaKV(budget, window),
        "PyramidKV": kvlab.PyramidKV(budget, layers, window),
        "Random": kvlab.RandomKeep(budget, 4, window),
    }


# --- the recorded run -------------------------------------------------------------------------------------

NAMES = {
    "window": "window", "sink-window": "4 sinks + window", "streaming": "StreamingLLM", "h2o": "H2O",
    "tova": "TOVA", "snapkv": "SnapKV", "snapkv-wide": "SnapKV, pooled 13", "adakv": "AdaKV",
    "pyramidkv": "PyramidKV", "random": "random", "merge-lsh": "merged, LSH",
    "merge-neighbours": "merged, neighbours", "merge-neighbours-uncounted": "merged, no log(count)",
}  # fmt: skip
BUDGETS = {50: 50.0, 25: 25.0, 12: 12.5}  # as in a method's name -> per cent of the prompt's entries


def policies_at(found: Mapping[str, Point], budget: int) -> dict[str, Point]:
    """Name -> point of each policy that was recorded at this budget, least KL first."""
    there = {name: found.get(f"{method}-{budget}") for method, name in NAMES.items()}
    points = {name: point for name, point in there.items() if point is not None}
    return dict(sorted(points.items(), key=lambda pair: pair[1].interval.mean))


def asked(run: Recorded, method: str) -> tuple[int, int, int]:
    """Needles found with the question asked afterwards, with it in the prompt, and of how many."""
    row = run.select(method=method)[0]
    after, before = each_needle(row["needles"]), each_needle(row["needles_aware"])
    return sum(after), sum(before), len(after)


# --- measured as the notebook runs ------------------------------------------------------------------------


class LengthForPosition(kvlab.SnapKV):
    """The mistake: what comes after the eviction is turned to its slot, the stored length."""

    plain_keys = True

    def rope(self, positions: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        slot = torch.arange(positions.shape[-1], device=positions.device).expand_as(positions)
        place = torch.where(slot < self.budget, positions, slot)  # until an eviction both are the same
        return place[..., -step.tokens :], place


def kl_here(lm: Decoder, evictions: Mapping[str, Eviction]) -> dict[str, float]:
    """KL on the first text of the recorded run, token by token through a real cache."""

    def maker(one: Eviction) -> Factory:
        return lambda task: kvlab.Cache(lm, eviction=one)

    return kl_of_first_text(lm, {name: maker(one) for name, one in evictions.items()})


def weigh(keys: Tensor, values: Tensor, query: Tensor, bias: Tensor) -> Tensor:
    """What one query mixes: keys and values `[entries, head_dim]`, query `[head_dim]`, bias `[entries]`."""
    return (keys @ query / keys.shape[1] ** 0.5 + bias).softmax(0) @ values
