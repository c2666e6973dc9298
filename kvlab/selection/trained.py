"""Weights of selections that were trained, one file a model: read, checked, and put where they are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).with_name("checkpoints")
Weights = dict[str, Tensor]  # name -> [layers, ...]


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
