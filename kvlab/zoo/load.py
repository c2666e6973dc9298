"""`kvlab.load` and `kvlab.random`: a decoder with real weights, or with the right shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kvlab.model.config import Config
from kvlab.zoo.catalogue import CATALOGUE
from kvlab.zoo.errors import ModelError, need
from kvlab.zoo.folder import download_from_hub, load_folder
from kvlab.zoo.shapes import BYTE_VOCAB, SHAPES, count_weights, weight_shapes
from kvlab.zoo.store import TOKENIZER, WEIGHTS, fetch, nearest
from kvlab.zoo.tokenizer import ByteTokenizer, PieceTokenizer

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

_MADE_HERE = ("tiny", "tiny-gemma3")
_SHIPPED = "translator"  # an encoder–decoder, in the package
# Random, yet with logits of a trained model's size, so that a wrong mask or position shows clearly.
_TINY_STD = 0.2
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")
}


def names() -> tuple[str, ...]:
    """Names that `load` takes, besides "hf:org/name" and the path of a folder."""
    return (*CATALOGUE, *_MADE_HERE, _SHIPPED)


def shapes() -> tuple[str, ...]:
    """Names that `random` takes."""
    return tuple(SHAPES)


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Decoder:
    """A decoder with its weights and tokenizer.

    Args:
        name: one of `names()`, of which "translator" is an encoder–decoder; "hf:org/name" for a Llama,
            Mistral or Gemma 3 checkpoint on the Hugging Face hub; or a folder with config.json,
            *.safetensors and tokenizer.json.
        device: "cpu", "cuda", …; None: "cuda" where PyTorch finds it, else "cpu".
        dtype: "float32", "bfloat16", "float16", "float64" or torch's own; None: float32.

    On the CPU in float32 the weights are mapped from the file, not read: loading is quick, and what
    a program changes in them stays in memory.

    Raises:
        ModelError: the model cannot be had or cannot be used; the message says what to do.
    """
    place, kind = _device(device), _dtype(dtype)
    if isinstance(name, str) and name in _MADE_HERE:
        return _random(SHAPES[name], place, kind, seed=0, std=_TINY_STD)
    if name == _SHIPPED:
        from kvlab.translation.checkpoint import PACKAGED
        from kvlab.translation.checkpoint import load as load_translator

        return load_translator(PACKAGED, place, kind)
    if isinstance(name, str) and name in CATALOGUE:
        return _load_catalogued(name, place, kind)
    if isinstance(name, str) and name.startswith("hf:"):
        folder = download_from_hub(name.removeprefix("hf:"))
        return _decoder(*load_folder(folder, name.removeprefix("hf:")), place, kind)
    if Path(name).is_dir():
        return _decoder(*load_folder(Path(name), str(name)), place, kind)
    raise _unknown(str(name))


def random(
    shape: str | Config,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
) -> Decoder:
    """A decoder of a known shape with random weights: for speed and memory, not for text.

    The weights are made on `device` in `dtype`, one tensor after the other, so little more than
    the model itself is ever held. The same seed gives the same model on the same device and dtype.

    Args:
        shape: one of `shapes()`, or a `Config`.
        device: as for `load`.
        dtype: as for `load`.
        seed: of the random numbers.

    Raises:
        ModelError: unknown shape; the device is missing or its memory too small.
    """
    if isinstance(shape, str) and shape not in SHAPES:
        raise ModelError(f"There is no shape {shape!r}{nearest(shape, SHAPES)}")
    config = SHAPES[shape] if isinstance(shape, str) else shape
    return _random(config, _device(device), _dtype(dtype), seed, std=0.02)


def random_weights(
    config: Config, device: torch.device, dtype: torch.dtype, seed: int = 0, std: float = 0.02
) -> dict[str, torch.Tensor]:
    """Every tensor of a decoder, drawn from N(0, std); norms multiply by one."""
    generator = None
    if device.type != "meta":  # meta tensors have no values to draw
        generator = torch.Generator(device).manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        tensor = torch.empty(shape, device=device, dtype=dtype)
        if name.endswith("norm.weight"):
            tensor.fill_(0.0 if config.norm_plus_one else 1.0)
        else:
            tensor.normal_(0.0, std, generator=generator)
        weights[name] = tensor
    return weights


def _random(config: Config, device: torch.device, dtype: torch.dtype, seed: int, std: float) -> Decoder:
    tokenizer = ByteTokenizer() if config.vocab_size == BYTE_VOCAB else None
    try:
        return _decoder(config, random_weights(config, device, dtype, seed, std), tokenizer, device, dtype)
    except torch.OutOfMemoryError as error:
        size = count_weights(config) * dtype.itemsize / 1e9
        raise ModelError(
            f"{config.name} in {str(dtype).removeprefix('torch.')} takes {size:.1f} GB, "
            f"more than {device} has free; "
            'choose a smaller shape or dtype="bfloat16".'
        ) from error


def _load_catalogued(name: str, device: torch.device, dtype: torch.dtype) -> Decoder:
    entry = CATALOGUE[name]
    folder = fetch(name)
    weights = need("safetensors.torch").load_file(folder / WEIGHTS)
    tokenizer = PieceTokenizer.from_file(folder / TOKENIZER, entry.config, entry.chat_system)
    return _decoder(entry.config, weights, tokenizer, device, dtype)


def _decoder(
    config: Config,
    weights: dict[str, torch.Tensor],
    tokenizer: PieceTokenizer | ByteTokenizer | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Decoder:
    from kvlab.model.decoder import Decoder  # imported late: `import kvlab.zoo` needs no decoder

    return Decoder.from_weights(config, weights, tokenizer, device, dtype)


def _device(device: str | torch.device | None) -> torch.device:
    """Where the model goes; refuses a GPU that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f'There is no device {device!r}; use "cpu" or "cuda".') from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            'PyTorch finds no CUDA device here; use device="cpu", or install a CUDA build of torch '
            "and the driver."
        )
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """torch's dtype of a name."""
    if dtype is None:
        return torch.float32
    kind = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind is None or kind not in _DTYPES.values():
        raise ModelError(f"kvlab's models have no dtype {dtype!r}; use one of {', '.join(_DTYPES)}.")
    return kind


def _unknown(name: str) -> ModelError:
    """What is wrong with a name that means nothing here."""
    if name in SHAPES:
        return ModelError(f'kvlab has no weights of {name}; kvlab.random("{name}") gives it random ones.')
    if "/" in name or "\\" in name or name.startswith("."):
        return ModelError(
            f'There is no folder {name}; a model of the Hugging Face hub is written "hf:{name}".'
        )
    return ModelError(f"There is no model {name!r}{nearest(name, names())}")
