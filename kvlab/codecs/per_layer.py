"""Another codec for some layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kvlab.codecs.base import Choice, Codec, Stream

if TYPE_CHECKING:
    from kvlab.model.config import Config


class PerLayer(Choice):
    """The codec of each layer by its number, and `default` for all others; None: exact.

    `PerLayer({0: Int8(), 1: Int8()}, default=KIVI(2))` spares the first layers;
    `PerLayer(dict.fromkeys((5, 11, 17), KIVI(4)))` quantizes three layers and leaves the others exact.

    Raises:
        ValueError: a layer that the model does not have (`refuse`, when the cache is made), or what one of
            the codecs raises.
    """

    def __init__(self, codecs: Mapping[int, Codec | None], default: Codec | None = None):
        self.codecs, self.default = dict(codecs), default
        wrong = next((key for key in self.codecs if not isinstance(key, int) or key < 0), None)
        if wrong is not None:
            raise ValueError(f"PerLayer takes layer numbers from 0 up, not {wrong!r}.")

    def at(self, layer: int, stream: Stream) -> Codec | None:
        codec = self.codecs.get(layer, self.default)
        return codec and codec.at(layer, stream)

    def refuse(self, config: Config) -> None:
        unknown = [layer for layer in self.codecs if layer >= config.num_hidden_layers]
        if unknown:
            raise ValueError(
                f"{config.name} has layers 0 to {config.num_hidden_layers - 1}; PerLayer names {unknown[0]}."
            )
        for codec in (*self.codecs.values(), self.default):
            if codec is not None:
                codec.refuse(config)

    def __repr__(self) -> str:
        return f"PerLayer({self.codecs!r}, default={self.default!r})"
