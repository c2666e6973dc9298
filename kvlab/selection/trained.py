"""Selections that were trained, and their weights: one file a model, one tensor of all layers a name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvlab.selection.base import Selection

FOLDER = Path(__file__).with_name("checkpoints")
Weights = dict[str, Tensor]  # name -> [layers, ...]


class Trained(Selection):
    """A selection with trained weights: all layers' as they were read, one layer's in what `at` returns.

    Raises:
        ValueError: there are no such weights (see `read_weights`), or they were trained for other layers.
    """

    kind: str  # "indexer", "gate": the first word of its files

    def __init__(self, weights: str | Path | Weights):
        self.weights = read_weights(self.kind, weights)

    def at(self, layer: int) -> Selection | None:
        layers = len(self.weights["key"])
        if layer >= layers:
            raise ValueError(
                f"these {self.kind}s were trained for a model of {layers} layers; this one has more."
            )
        mine = copy.copy(self)
        mine.weights = {name: weight[layer] for name, weight in self.weights.items()}
        return mine

    def shared_tensors(self) -> list[Tensor]:
        return list(self.weights.values())

    def on(self, x: Tensor) -> Weights:
        """The weights where `x` is, in its dtype."""
        self.weights = {name: weight.to(x) for name, weight in self.weights.items()}
        return self.weights


def checkpoint(kind: str, model: str) -> Path:
    """Where the package keeps the weights of a kind ("indexer", "gate") for a model."""
    return FOLDER / f"{kind}-{model}.safetensors"


def read_weights(kind: str, source: str | Path | Weights) -> Weights:
    """Weights by the name of the model they were trained for, from a file, or as they are; in float32.

    Raises:
        ValueError: there are none for this model, or no such file.
    """
    if isinstance(source, dict):
        return {name: weight.float() for name, weight in source.items()}
    path = source if isinstance(source, Path) else checkpoint(kind, source)
    if not path.exists():
        known = sorted(p.stem.removeprefix(f"{kind}-") for p in FOLDER.glob(f"{kind}-*.safetensors"))
        raise ValueError(
            f"there is no trained {kind} for {source}: the package has one for {', '.join(known)}; "
            f"`kvlab train-indexer --kind {kind} --model NAME` trains another."
        )
    from kvlab.zoo.errors import need

    return {name: weight.float() for name, weight in need("safetensors.torch").load_file(path).items()}


def read_recipe(kind: str, model: str) -> dict[str, Any]:
    """How the packaged weights came to be: recipe, losses, held-out mass, machine, versions."""
    found: dict[str, Any] = json.loads(checkpoint(kind, model).with_suffix(".json").read_text("utf-8"))
    return found


def save_weights(weights: Weights, path: Path, recipe: dict[str, Any]) -> None:
    """Write `weights` in 16 bits to `path`, and how they came to be beside them."""
    from kvlab.zoo.errors import need

    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.detach().to(torch.float16).contiguous() for name, weight in weights.items()}
    need("safetensors.torch").save_file(halves, path)
    path.with_suffix(".json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
