"""Checkpoints in Hugging Face's layout: a local folder, or one fetched from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.model.config import Config
from kvlab.zoo.errors import ModelError, need
from kvlab.zoo.hf_config import config_from_json
from kvlab.zoo.shapes import weight_shapes
from kvlab.zoo.tokenizer import PieceTokenizer

if TYPE_CHECKING:
    import torch

_INDEX = "model.safetensors.index.json"
_HUB_FILES = ["config.json", "generation_config.json", "*.safetensors", _INDEX, "tokenizer.json"]


def load_folder(folder: Path, name: str) -> tuple[Config, dict[str, torch.Tensor], PieceTokenizer | None]:
    """Config, weights (mapped, in the file's dtype) and tokenizer of a checkpoint.

    Raises:
        ModelError: something is missing, contradictory, unsafe (pickles) or unsupported.
    """
    config = read_config(folder, name)
    weights = _select(_read_weights(folder, name), config, name)
    file = folder / "tokenizer.json"
    return config, weights, PieceTokenizer.from_file(file, config) if file.exists() else None


def read_config(folder: Path, name: str) -> Config:
    """The shape in `config.json`; `generation_config.json` knows best which tokens end a text."""
    data = _read_json(folder / "config.json", name)
    if (folder / "generation_config.json").exists():
        generation = _read_json(folder / "generation_config.json", name)
        special = ("bos_token_id", "eos_token_id", "pad_token_id")
        data |= {key: generation[key] for key in special if generation.get(key) is not None}
    return config_from_json(data, name)


def download_from_hub(repository: str) -> Path:
    """The folder of a checkpoint from the Hugging Face hub; its shape is checked before its weights come.

    Raises:
        ModelError: `huggingface_hub` is missing, or the hub does not give the files.
    """
    hub = need("huggingface_hub")
    try:
        config = hub.hf_hub_download(repository, "config.json")
        read_config(Path(config).parent, repository)
        return Path(hub.snapshot_download(repository, allow_patterns=_HUB_FILES))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{repository} cannot be had from the Hugging Face hub ({reason}). Check the name, the network "
            "and, for a gated model, that you are logged in with `hf auth login`."
        ) from error


def _read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{name} has no {path.name}; a checkpoint folder needs config.json and *.safetensors."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); copy the file again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} does not hold a JSON object; copy the file again.")
    return data


def _read_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """All tensors of the folder's safetensors files, by the names in the files."""
    safetensors, load_file = need("safetensors"), need("safetensors.torch").load_file
    weights: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder, name):
        try:
            weights |= load_file(path)
        except FileNotFoundError as error:
            raise ModelError(
                f"{name} lacks {path.name}, which its index names; copy that file too."
            ) from error
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or cut short ({error}); copy the file again.") from error
    return weights


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files that make up the model."""
    if (folder / _INDEX).exists():
        index = _read_json(folder / _INDEX, name)
        files = sorted(set(index.get("weight_map", {}).values()))
        if any(Path(file).name != file for file in files):
            raise ModelError(
                f"The index of {name} names files outside its folder; do not use this checkpoint."
            )
        return [folder / file for file in files]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if found := sorted(folder.glob("*.safetensors")):
        return found
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise ModelError(
            f"{name} has its weights in pickle files, which can run any code when they are opened; kvlab "
            "reads only safetensors. Look for a safetensors version of the model."
        )
    raise ModelError(f"{name} has no *.safetensors; a checkpoint folder needs config.json and *.safetensors.")


def _select(found: dict[str, torch.Tensor], config: Config, name: str) -> dict[str, torch.Tensor]:
    """The tensors that the decoder takes, renamed; refuses missing, misshapen and left-over ones."""
    weights = {key.removeprefix("model."): tensor for key, tensor in found.items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)  # a copy of the embeddings
    weights = {key: tensor for key, tensor in weights.items() if not key.endswith("rotary_emb.inv_freq")}
    shapes = weight_shapes(config)
    if missing := [key for key in shapes if key not in weights]:
        raise ModelError(f"{name} lacks {len(missing)} tensors that its config asks for, first {missing[0]}.")
    if unknown := [key for key in weights if key not in shapes]:
        raise ModelError(
            f"{name} has {len(unknown)} tensors that kvlab's decoder has no place for, first {unknown[0]}; "
            "its architecture differs from what its config says."
        )
    for key, shape in shapes.items():
        if tuple(weights[key].shape) != shape:
            raise ModelError(f"{key} of {name} is {tuple(weights[key].shape)}; its config asks for {shape}.")
    return weights
