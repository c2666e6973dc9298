"""A cache without guards: whatever `kvlab.Cache` works out by itself, the caller has to say here.

Most libraries leave positions and masks to their caller. `kvlab.Cache` keeps a ledger, so that those mistakes
cannot be made with it; to show them on the same decoder, this cache believes what it is told.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.model.attention import probabilities
from kvlab.model.decoder import Attention, Call, Frame, call
from kvlab.model.rotary import angles
from kvlab.record import Record
from kvlab.stores.base import Step, View
from kvlab.stores.none import NoLayer, Passing

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

CosSin = tuple[Tensor, Tensor]


class Told(Record):
    """Writes attention maps under the mask that was given, where a plain `Record` goes by the positions."""

    def __init__(self, record: Record, mask: Tensor):
        self.record, self.mask = record, mask

    def add(self, attention: Attention, q: Tensor, view: View, step: Step) -> None:
        keys, values = view.read()
        record, layer = self.record, attention.index
        record.attention[layer] = probabilities(q, keys, self.mask, attention.scale)
        record.queries[layer], record.keys[layer], record.values[layer] = q, keys, values


class LooseLayer(NoLayer):
    """Keys and values of one layer, `[batch, kv_heads, slots, head_dim]`, open to everyone."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        self.keys = k if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v if self.values is None else torch.cat([self.values, v], dim=2)
        return View(Passing(self.keys), Passing(self.values), step.ledger)

    def keep(self, slots: Tensor) -> None:
        """Keep the entries at `slots [n]` and no others."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, slots], self.values[:, :, slots]

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


class Loose:
    """Appends what it is given, at the positions and under the mask that it is given.

    `layers[i].keys` and `.values` are `[batch, kv_heads, slots, head_dim]`, keys as they were rotated when
    they were written. Nothing is checked. For models without a sliding window.
    """

    def __init__(self, lm: Decoder):
        self.lm = lm
        self.layers = [LooseLayer() for _ in range(lm.config.num_hidden_layers)]

    @property
    def length(self) -> int:
        """Slots that hold something: the number that many loops take for the next position."""
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[2]

    def __call__(
        self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, block: Call = call
    ) -> Tensor:
        """Logits `[batch, tokens, vocab]` of `ids [batch, tokens]`, which are appended.

        positions: `[tokens]` or `[batch, tokens]`, where they are rotated to; None: after the slots held.
        mask: bool, expands to `[batch, 1, tokens, slots]`, True where a query may look; None: causal,
        bottom-right. block: calls one layer, `block(module, x, layer, frame)`; to break something in it.
        """
        lm, (batch, tokens), past = self.lm, ids.shape, self.length
        if positions is None:
            positions = torch.arange(past, past + tokens, device=lm.device)
        positions = positions.to(lm.device).expand(batch, tokens)
        if mask is None:
            mask = causal_mask(tokens, past + tokens, lm.device)
        mask = mask.to(lm.device).expand(batch, 1, tokens, past + tokens)
        ledger = torch.zeros(batch, 1, past + tokens, dtype=torch.int32, device=lm.device)
        step = Step(ids, positions, torch.arange(past, past + tokens), ledger, in_order=False)
        frame = Frame(step, {}, {}, {}, lm.recording and Told(lm.recording, mask))
        for kind, attention in lm.kinds.items():
            frame.rope[kind] = angles(positions[:, None], attention.frequencies, lm.dtype)
            frame.masks[kind], frame.causal[kind] = mask, False
        x = lm.embed(ids)
        for module, layer in zip(lm.layers, self.layers, strict=True):
            x = block(module, x, layer, frame)
        return lm.head(x)

    def crop(self, slots: int) -> None:
        """Keep the first `slots` entries."""
        self.keep(range(slots))

    def keep(self, slots: Sequence[int]) -> None:
        """Keep the entries at `slots`, in that order."""
        for layer in self.layers:
            layer.keep(torch.tensor(list(slots), dtype=torch.int64, device=self.lm.device))

    def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row `rows[i]` was."""
        for layer in self.layers:
            layer.reorder(torch.tensor(list(rows), device=self.lm.device))

    def fork(self) -> Loose:
        """A second cache that goes its own way: `append` makes new tensors, so old ones can be shared."""
        other = Loose(self.lm)
        other.layers = [copy.copy(layer) for layer in self.layers]
        return other


def causal_mask(tokens: int, slots: int, device: torch.device | str = "cpu") -> Tensor:
    """`[tokens, slots]`: the last query sees all slots, the one before all but the last, and so on."""
    return torch.ones(tokens, slots, dtype=torch.bool, device=device).tril(slots - tokens)
