"""What lesson 19 computes: one layer's indexer trained live, and what was recorded of all layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.learned.capture import Capture, capture, held_out_windows, training_windows
from kvlab.learned.evaluate import FROM, Judge
from kvlab.learned.train import Recipe, train, untrained
from kvlab.selection import indexer
from kvlab.selection.trained import read_recipe

from .chart_points import Point

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

MODEL = "smollm2-135m"
ROWS = 96  # queries kept of a window: the later half, where there is something to choose
SHARES = (0.05, 0.1, 0.2)


def windows(lm: Decoder) -> tuple[Capture, Capture]:
    """What every layer does on one window of training text, and on one that nobody trains on."""
    draw = torch.Generator().manual_seed(0)
    rows = (FROM + torch.randperm(1024 - FROM, generator=draw)[:ROWS]).sort().values
    taught, judged = next(training_windows(lm)), next(held_out_windows(lm))
    return capture(lm, taught, rows), capture(lm, judged, rows)


def of_layer(seen: Capture, layer: int) -> Capture:
    """One layer's part of a capture."""
    only = slice(layer, layer + 1)
    return Capture(seen.at, seen.queries[only], seen.keys[only], seen.attention[only])


class Pupil:
    """The indexer of one layer, and how far it has got: `teach` trains it, on one window only.

    `.history` has (steps, share of the attention that its choice of a tenth holds on the held-out window).
    """

    def __init__(self, taught: Capture, judged: Capture, layer: int, width: float = Recipe.width) -> None:
        self.layer, self.width = layer, width
        self.taught, self.judged = of_layer(taught, layer), of_layer(judged, layer)
        self.recipe = Recipe("indexer", width=width)
        self.judge = Judge(self.judged)
        self._fixed = {"oracle": self.judge.oracle(), "sinks + recent": self.judge.sinks_and_recent()}
        self.weights = untrained(self.recipe, self.taught)
        self._steps: Iterator[float] = train(self.weights, self.recipe, [self.taught])
        self.steps, self.losses = 0, list[float]()
        self.history = [(0, self.mass(0.1))]

    def teach(self, steps: int) -> None:
        """Some steps more, up to those of the recipe."""
        for _ in range(steps):
            loss = next(self._steps, None)
            if loss is None:
                break
            self.steps += 1
            self.losses.append(loss)
        self.history.append((self.steps, self.mass(0.1)))

    def mass(self, share: float) -> float:
        """Mean attention on the chosen share of the entries, held-out window."""
        return self.judge.mass(self.judge.indexer(self._frozen()), share).item()

    def yardsticks(self, share: float) -> dict[str, float]:
        """What the oracle, and sinks with recent tokens, hold there."""
        return {name: self.judge.mass(ranking, share).item() for name, ranking in self._fixed.items()}

    def chosen(self, row: int, share: float = 0.1) -> tuple[Tensor, Tensor]:
        """One held-out query: its attention, `[tokens]` summing to 1, and what the indexer picks, bool."""
        weights, seen = self._of_layer(), self.judged.seen[row]
        attention = self.judged.attention[0, :, row].sum(dim=0)
        held = indexer.small_keys(self.judged.keys[0], weights)
        found = indexer.scores(self.judged.queries[0, row : row + 1], held, weights)
        k = max(5, int(int(seen.sum()) * share))
        best = found[0].masked_fill(~seen, float("-inf")).topk(k).indices
        picked = torch.zeros_like(seen)
        picked[best] = True
        return attention / attention.sum(), picked

    def _frozen(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    def _of_layer(self) -> dict[str, Tensor]:
        return {name: weight[0] for name, weight in self._frozen().items()}

    def dead(self) -> float:
        """The share of (query, head) pairs whose ReLU is 0 for every token: no gradient reaches them."""
        weights = self._of_layer()
        held = indexer.small_keys(self.taught.keys[0], weights)
        q = (self.taught.queries[0] @ weights["query"]).unflatten(-1, (self.recipe.heads, self.recipe.dim))
        return float((q @ held.T <= 0).all(dim=-1).float().mean())


def trained(kind: str = "indexer") -> dict[str, Any]:
    """How the packaged weights came to be: recipe, losses, held-out mass by layer, machine, versions."""
    return read_recipe(kind, MODEL)


def masses(share: float) -> dict[str, list[float]]:
    """method -> held-out mass by layer, recorded when the packaged indexer and gate were trained."""
    first, second = (trained(kind)["held_out_mass"] for kind in ("indexer", "gate"))
    return {name: by[str(share)] for name, by in {**first, **second}.items()}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def gains(share: float) -> list[float]:
    """What the indexer holds more than sinks and recent tokens, by layer."""
    found = masses(share)
    pairs = zip(found["indexer"], found["sinks + recent"], strict=True)
    return [learned - fixed for learned, fixed in pairs]


def recipe() -> Recipe:
    """The recipe of the packaged indexer."""
    return Recipe(**{f.name: trained()["recipe"][f.name] for f in dataclasses.fields(Recipe)})


# name in the figure -> methods of the quality run, fewer bytes first
FAMILIES = {
    "indexer": ("indexer-5", "indexer-12.5", "indexer-25"),
    "gate": ("gate-12.5", "gate-25"),
    "Quest": ("quest-12.5", "quest-25"),
    "SparQ": ("sparq-8-12.5", "sparq-16-12.5"),
    "oracle": ("topk-2", "topk-12.5", "oracle-25"),
}


def families(found: Mapping[str, Point]) -> dict[str, list[Point]]:
    """The points of each family of this lesson."""
    return {name: [found[method] for method in methods] for name, methods in FAMILIES.items()}
