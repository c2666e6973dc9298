"""A model's keys and values on some text: what bases, dictionaries and tables are learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.base import Choice, Codec, Packed, Stream

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder


class Watch(Codec):
    """Encodes nothing, ever; asks for keys before the rotary embedding, so that they can be looked at."""

    residual = 1 << 60
    exact = True

    def __init__(self, plain_keys: bool = True):
        self.plain_keys = plain_keys

    def encode(self, x: Tensor) -> Packed:
        return {"exact": x}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return packed["exact"].to(dtype)


class Learned(Choice):
    """What was learned for each layer and stream of a model; what is missing stays exact.

    Raises:
        ValueError: something was learned for a layer that the model does not have (`refuse`, when the cache
            is made), or what one of the codecs refuses.
    """

    what: str  # what one layer and stream has learned

    def __init__(self, codecs: Mapping[tuple[int, Stream], Codec]):
        self.codecs = codecs

    def at(self, layer: int, stream: Stream) -> Codec | None:
        return self.codecs.get((layer, stream))

    def refuse(self, config: Config) -> None:
        for layer, _ in self.codecs:
            if layer >= config.num_hidden_layers:
                raise ValueError(
                    f"a {self.what} was learned for layer {layer}; {config.name} has "
                    f"{config.num_hidden_layers} layers, from 0; fit one on this model."
                )
        for codec in self.codecs.values():
            codec.refuse(config)

    def shared_tensors(self) -> list[Tensor]:
        return [tensor for codec in self.codecs.values() for tensor in codec.shared_tensors()]


def entries(lm: Decoder, ids: Sequence[int], plain: bool = True) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, each `[kv_heads, tokens, head_dim]`, for one text.

    plain: keys before the rotary embedding; else as attention sees them.

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
