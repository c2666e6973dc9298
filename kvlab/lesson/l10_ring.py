"""What really lies in each slot of a ring, read off a cache: the positions are in the memory itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import kvlab
from kvlab.measure.growth import shell
from kvlab.model.config import Config

from .style import token_text

TOY = 8  # slots of the ring whose slots can be read
MOST = {TOY: 24, 512: 2048}  # tokens that the slider goes to


@dataclass(frozen=True)
class Reading:
    """What is read off a real cache after its newest token."""

    tokens: int
    memory: list[int]  # the position whose key lies in each slot of a ring; -1: never written
    visible: list[int]  # the same as the store says it: -1 where the next token sees nothing
    overwritten: int  # the position that the newest token has overwritten; -1: none
    full: int  # entries of a full layer
    kept: list[int]  # entries of every layer
    stored: int  # bytes

    @property
    def slot(self) -> int:
        """The slot of the newest token."""
        return self.memory.index(self.tokens - 1)

    @property
    def free(self) -> int:
        """The slot that takes the next token."""
        size = len(self.memory)
        return next(
            i for i in range(size) if self.visible[i] < 0 and self.memory[i] in (-1, self.tokens - size)
        )


class Rings:
    """Hybrid caches of a model's shape in which the key of position p is the number p: memory tells."""

    def __init__(self, config: Config, window: int) -> None:
        self.config = config.replace(sliding_window=window)
        self.window = window

    def cache(self, tokens: int) -> kvlab.Cache:
        """A cache that holds `tokens` tokens, allocated at once for as many as the slider has."""
        cache = kvlab.Cache(
            shell(self.config, torch.float32, torch.device("cpu")),  # type: ignore[arg-type]
            store="hybrid",
            capacity=MOST.get(self.window, 4 * self.window),
        )
        for layer in cache.layers:
            for part in layer.tensors():
                part.fill_(-1)
        if tokens:
            self.append(cache, tokens)
        return cache

    def append(self, cache: kvlab.Cache, tokens: int) -> None:
        """The next tokens; each key and value is the token's position."""
        c, start = self.config, cache.used
        step = cache.begin(torch.zeros(1, tokens, dtype=torch.int64))
        k = torch.arange(start, start + tokens, dtype=torch.float32).view(1, 1, -1, 1)
        k = k.expand(1, c.num_key_value_heads, tokens, c.head_dim)
        for layer in cache.layers:
            layer.settle(k, None, layer.append(k, k, step), step)
        cache.commit(step)

    def read(self, tokens: int) -> Reading:
        """The cache after `tokens` tokens, the last of which came alone."""
        cache = self.cache(tokens - 1)
        ring = self.config.layer_types.index("sliding")
        before = _memory(cache, ring)
        self.append(cache, 1)
        memory, ledger = _memory(cache, ring), cache.ledger
        assert ledger is not None  # it holds a token
        return Reading(
            tokens,
            memory,
            cache.layers[ring].positions(ledger)[0, 0].tolist(),
            before[memory.index(tokens - 1)],
            int(cache.layers[self.config.layer_types.index("full")].stored(ledger).max()),
            [int(layer.stored(ledger).max()) for layer in cache.layers],
            cache.nbytes,
        )


def _memory(cache: kvlab.Cache, layer: int) -> list[int]:
    """The first number of the key in every slot: its position."""
    return [int(x) for x in cache.layers[layer].tensors()[0][0, 0, :, 0].tolist()]


def says(found: Reading, words: Sequence[str]) -> str:
    """What the newest token did."""
    size, newest = len(found.memory), found.tokens - 1
    word = f" `{token_text(words[newest])}`" if newest < len(words) else ""
    text = f"Position {newest:,}{word} went into slot {found.slot} = {newest:,} mod {size}"
    over = "" if found.overwritten < 0 else f" and overwrote position {found.overwritten:,}"
    kept = sum(p >= 0 for p in found.visible)
    return f"{text}{over}. The ring holds {kept}; slot {found.free} is free for the next."
