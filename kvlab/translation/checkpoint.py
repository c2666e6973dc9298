"""A trained translator as two files: weights (safetensors), and beside them how they came to be (JSON)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from kvlab.model.config import TranslatorConfig
from kvlab.model.translator import Translator
from kvlab.translation.words import Words
from kvlab.zoo.errors import ModelError, need

PACKAGED = Path(__file__).with_name("translator.safetensors")


def save(lm: Translator, path: Path, record: dict[str, Any]) -> None:
    """Write the weights to `path`, and `record` with the model's shape and words beside them."""
    weights = {name: p.detach().cpu().clone() for name, p in lm.named_parameters()}
    need("safetensors.torch").save_file(weights, path)
    shape = dataclasses.asdict(lm.config)
    words: Words = lm.tokenizer
    known = {"config": shape, "languages": list(words.languages), "words": list(words.words)}
    path.with_suffix(".json").write_text(json.dumps(known | record, indent=1, ensure_ascii=False) + "\n")


def read_record(path: Path = PACKAGED) -> dict[str, Any]:
    """How the translator at `path` came to be: recipe, losses, held-out accuracy, machine, versions.

    Raises:
        ModelError: there is no such record.
    """
    beside = path.with_suffix(".json")
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError(
            f"there is no translator at {path}: {beside.name} cannot be read; "
            "`kvlab train-translation --out PATH` makes one."
        ) from None


def load(
    path: Path = PACKAGED, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Translator:
    """A translator that `save` wrote; without arguments the one that comes with kvlab.

    Raises:
        ModelError: the files are missing, or were written by a kvlab with other words.
    """
    record = read_record(path)
    words = Words(record["languages"])
    if list(words.words) != record["words"]:
        raise ModelError(f"{path.name} was trained on other words; run kvlab train-translation again.")
    if not path.exists():
        raise ModelError(f"there are no weights at {path}; kvlab train-translation --out PATH makes them.")
    weights = need("safetensors.torch").load_file(path)
    lists = {name: v for name, v in record["config"].items() if isinstance(v, list)}  # JSON has no tuples
    shape = TranslatorConfig(**record["config"] | {name: tuple(v) for name, v in lists.items()})
    return Translator.from_weights(shape, weights, words, device, dtype)
