"""A model's keys and values on some text: what bases, dictionaries and tables are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Packed

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


class Watch(Codec):
    """Encodes nothing, ever; asks for keys before rotation, so that they can be looked at."""

    residual = 1 << 60
    exact = True

    def __init__(self, plain_keys: bool = True):
        self.plain_keys = plain_keys

    def encode(self, x: Tensor) -> Packed:
        return {"exact": x}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return packed["exact"].to(dtype)


def entries(lm: Decoder, ids: Sequence[int], plain: bool = True) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, each `[kv_heads, tokens, head_dim]`, for one text.

    plain: keys before rotation; else as attention sees them.

    Raises:
        ValueError: no text.
    """
    if not len(ids):
        raise ValueError("entries needs some text: give a list of one token id or more.")
    from kvlab.cache import Cache  # codecs are below the cache, which is needed here as a user has it

    cache = Cache(lm, codec=Watch(plain))
    with torch.no_grad():
        lm(torch.tensor([list(ids)], device=lm.device), cache, last_only=True)
    return [(layer.keys.read()[0].clone(), layer.values.read()[0].clone()) for layer in cache.layers]
