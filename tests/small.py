"""A small float64 model, what the plain decoder says of it, and all the tensors that an object holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scenarios import decoder, expected, random_weights

from kvlab.model import Config, Decoder

CONFIG = Config(
    name="small", vocab_size=19, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=4, activation="gelu_tanh",
    layer_types=("full", "sliding", "full"), sliding_window=5, rope_theta=1e4, rope_local_theta=10.0,
    qk_norm=True, sandwich_norms=True, norm_plus_one=True, embed_scale=3.0,
)  # fmt: skip
TOKEN_BYTES = 2 * 3 * 2 * 4 * 8  # K and V, layers, KV heads, head_dim, bytes of a float64


def model(seed: int = 0, config: Config = CONFIG) -> Decoder:
    return decoder(config, seed)


def logits_of(text: Sequence[int], seed: int = 0, config: Config = CONFIG) -> torch.Tensor:
    """What the plain decoder says, `[tokens, vocab]`."""
    return torch.from_numpy(expected(config, seed, tuple(text)))


def weights_of(seed: int = 0, config: Config = CONFIG) -> dict[str, np.ndarray]:
    return {name: w.numpy() for name, w in random_weights(config, seed).items()}


def ids(*shape: int, seed: int = 1, vocab: int = 19) -> torch.Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def same(logits: torch.Tensor, wanted: torch.Tensor) -> bool:
    return (logits - wanted).abs().max().item() < 1e-10


def tensors_in(thing: Any, found: dict[int, torch.Tensor] | None = None) -> list[torch.Tensor]:
    """Every tensor that can be reached through attributes, dicts and lists, each object once."""
    found = {} if found is None else found
    if id(thing) in found or isinstance(thing, (str, int, float, type, torch.dtype, torch.device)):
        return []
    found[id(thing)] = thing
    if not isinstance(thing, torch.Tensor):
        inner = thing.values() if isinstance(thing, dict) else thing
        if not isinstance(thing, (dict, list, tuple)):
            inner = vars(thing).values() if hasattr(thing, "__dict__") else ()
        for part in inner:
            tensors_in(part, found)
    return [one for one in found.values() if isinstance(one, torch.Tensor)]


def storages(thing: Any) -> dict[int, int]:
    """Address and bytes of the storages behind all tensors of an object."""
    return {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_in(thing) if t.numel()
    }
