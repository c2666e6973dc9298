"""GGUF → safetensors, once: dequantize, undo llama.cpp's rewriting, use Hugging Face's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvlab.model.config import Config
from kvlab.zoo.errors import ModelError
from kvlab.zoo.gguf_header import Header, TensorInfo
from kvlab.zoo.shapes import weight_shapes

if TYPE_CHECKING:
    import torch

_TOP = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# With a norm on both sides of attention and MLP, "post attention" really is after the attention.
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def read_weights(
    path: Path, header: Header, config: Config, progress: bool = False
) -> dict[str, torch.Tensor]:
    """Every tensor of a GGUF file in float32, named and laid out as in Hugging Face's checkpoints.

    Raises:
        ModelError: the file does not hold exactly the tensors that `config` asks for.
    """
    import torch
    from tqdm.auto import tqdm

    architecture = header.metadata.get("general.architecture")
    if architecture not in ("llama", "gemma3"):
        raise ModelError(
            f"{path.name} is a {architecture!r} model; kvlab converts 'llama' and 'gemma3' files."
        )
    shapes = weight_shapes(config)
    sources = {name: gguf_name(name, config) for name in shapes}
    if unexpected := set(header.tensors) ^ set(sources.values()):
        raise ModelError(
            f"{path.name} does not fit the shape {config.name}: {', '.join(sorted(unexpected)[:3])} "
            "is missing or unexpected."
        )
    data = np.memmap(path, mode="r")
    weights = {}
    bar = tqdm(shapes.items(), desc=f"Converting {config.name} (once)", unit=" tensors", disable=not progress)
    for name, shape in bar:
        info = header.tensors[sources[name]]
        if info.shape != shape:
            raise ModelError(
                f"{path.name} does not fit the shape {config.name}: {name} is {info.shape}, not {shape}."
            )
        weight = _undo_rewriting(name, _dequantize(data, info), config, architecture)
        weights[name] = torch.from_numpy(weight)
    return weights


def gguf_name(name: str, config: Config) -> str:
    """llama.cpp's name of the tensor that Hugging Face calls `name`."""
    if not name.startswith("layers."):
        return _TOP[name.removesuffix(".weight")] + ".weight"
    _, index, part = name.removesuffix(".weight").split(".", 2)
    names = _LAYER | _SANDWICH if config.sandwich_norms else _LAYER
    return f"blk.{index}.{names[part]}.weight"


def _dequantize(data: np.ndarray, info: TensorInfo) -> np.ndarray:
    """One tensor in float32, in memory of its own."""
    import gguf
    from gguf.quants import dequantize

    kind = gguf.GGMLQuantizationType(info.kind)
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row_bytes = info.shape[-1] // block_values * block_bytes
    rows = int(np.prod(info.shape[:-1], dtype=np.int64))
    raw = data[info.offset : info.offset + rows * row_bytes].reshape(rows, row_bytes)
    return np.array(dequantize(raw, kind), dtype=np.float32).reshape(info.shape)


def _undo_rewriting(name: str, weight: np.ndarray, config: Config, architecture: str) -> np.ndarray:
    """What llama.cpp changed when it wrote the file, changed back."""
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return weight - np.float32(1)  # llama.cpp stores 1 + weight
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        return _halves_from_pairs(weight, config.head_dim)
    return weight


def _halves_from_pairs(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head reordered from (0, 1), (2, 3), … to the halves that rotary embeddings pair.

    llama.cpp rotates neighbouring rows of a Llama's q and k; Hugging Face's layout rotates row i
    with row i + head_dim/2.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)
