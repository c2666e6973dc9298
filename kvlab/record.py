"""Look inside: attention maps, queries, keys and values of a forward call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.model.attention import may_see, probabilities
from kvlab.stores.base import Step, View

if TYPE_CHECKING:
    from kvlab.model.decoder import Attention, Decoder


class Record:
    """What the last forward call computed, by layer.

    attention[layer]: `[batch, heads, tokens, slots]`, rows are the new tokens; queries[layer]: `[batch,
    heads, tokens, head_dim]`; keys[layer], values[layer]: `[batch, kv_heads, slots, head_dim]`, all that
    the layer attended to. Queries and keys are those that met: rotated. cross[layer]: `[batch, heads, tokens,
    source]`, in a model with an encoder. read[layer]: bool `[batch, kv_heads, tokens, slots]`, what a
    selection read, where there is one; `attention` is then still what attention to everything would be.
    """

    def __init__(self) -> None:
        self.attention: dict[int, Tensor] = {}
        self.cross: dict[int, Tensor] = {}
        self.read: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def add(self, attention: Attention, q: Tensor, view: View, step: Step) -> None:
        keys, values = view.read()
        mask = may_see(step.positions, view.positions, attention.window)
        layer = attention.index
        self.read.pop(layer, None)
        self.attention[layer] = probabilities(q, keys, mask, attention.scale, view.bias)
        self.queries[layer] = q
        # Copies: a store may overwrite in place what it shows now.
        self.keys[layer], self.values[layer] = keys.clone(), values.clone()

    def captured(self, layer: int) -> Tensor:
        """The share of each query's attention on what was read, `[batch, heads, tokens]`; 1: all of it."""
        attention = self.attention[layer]
        if layer not in self.read:
            return attention.sum(dim=-1)
        read = self.read[layer]
        return (attention * read.repeat_interleave(attention.shape[1] // read.shape[1], dim=1)).sum(dim=-1)


@contextmanager
def record(lm: Decoder) -> Iterator[Record]:
    """Record every forward call that this thread makes of `lm` inside the `with` block; the last one stays
    readable after it.

    Computes the attention maps that the fast path never holds: memory grows with tokens squared. Outside
    the block, and for other threads, nothing is slower.

    Raises:
        RuntimeError: `lm` is being recorded already by this thread.
    """
    me = threading.get_ident()
    if me in lm.recordings:
        raise RuntimeError(
            "this model is being recorded already; leave the other `with kvlab.record(…)` first."
        )
    lm.recordings[me] = Record()
    try:
        yield lm.recordings[me]
    finally:
        del lm.recordings[me]
