"""A model without a cache, told where each token is and what it may see: what the doctor computes truth
with, and what every theory of a misuse is computed with too.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kvlab.doctor.loose import LooseLayer
from kvlab.doctor.subject import Unable
from kvlab.model.decoder import Frame
from kvlab.model.rotary import angles
from kvlab.stores.base import Step

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


Entries = tuple[Tensor, Tensor]


class Reference:
    """Full recompute with a model that was found or given."""

    model: Any
    vocab_size: int
    windowed = False  # whether some layer has a sliding window
    by_order = False  # a window counts tokens as they came, whatever position they were given

    def ways(self) -> list[Reference]:
        """This reference, whose windows go by position; if it has any, also one whose windows go by order."""
        if not self.windowed:
            return [self]
        twin = copy.copy(self)
        twin.by_order = True
        return [self, twin]

    def near(self, positions: Tensor, window: int | None) -> Tensor | None:
        """What is within a window: `[batch, queries, keys]`; None: there is no window."""
        return within(torch.arange(positions.shape[1])[None] if self.by_order else positions, window)

    def at(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Logits `[batch, tokens, vocab]`, each token at its position, seeing what it may.

        positions: int64 `[batch, tokens]`; visible: bool `[batch, tokens, tokens]`, row: query, True where
        it may look. A model's own sliding windows come on top, by position or `by_order`.
        """
        raise Unable

    def full(self, tokens: Tensor) -> Tensor:
        """Logits `[batch, tokens, vocab]` of plain texts."""
        batch, total = tokens.shape
        positions = torch.arange(total).expand(batch, total)
        return self.at(tokens, positions, torch.ones(batch, total, total, dtype=torch.bool).tril())

    def entries(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> list[Entries]:
        """What `at` would leave in a cache that keeps everything: keys and values of each layer, as stored,
        `[batch, kv_heads, tokens, head_dim]`.
        """
        raise Unable

    def layers(self) -> list[nn.Module]:
        """The layers in order, to see where a difference begins."""
        lists = [list(m) for m in self.model.modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=len, default=[])

    def to(self, dtype: torch.dtype) -> Reference:
        """The same on a copy of the model in `dtype`."""
        twin = copy.copy(self)
        twin.model = in_dtype(self.model, dtype)
        return twin


def in_dtype(model: nn.Module, dtype: torch.dtype) -> Any:
    """A copy of a model in another dtype; train mode stays."""
    return copy.deepcopy(model).to(dtype)


class KvlabReference(Reference):
    """kvlab's decoder, layer by layer, under any mask."""

    def __init__(self, lm: Decoder):
        self.model, self.vocab_size = lm, lm.config.vocab_size
        self.windowed = "sliding" in lm.kinds

    def layers(self) -> list[nn.Module]:
        return list(self.model.layers)

    @torch.no_grad()
    def at(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        return self._run(tokens, positions, visible, [LooseLayer() for _ in self.model.layers])

    @torch.no_grad()
    def entries(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> list[Entries]:
        layers = [LooseLayer() for _ in self.model.layers]
        self._run(tokens, positions, visible, layers)
        return [
            (layer.keys, layer.values)
            for layer in layers
            if layer.keys is not None and layer.values is not None
        ]

    def _run(self, tokens: Tensor, positions: Tensor, visible: Tensor, layers: list[LooseLayer]) -> Tensor:
        lm = self.model
        tokens, positions, visible = (x.to(lm.device) for x in (tokens, positions, visible))
        ledger = positions[:, None].to(torch.int32)
        step = Step(tokens, positions, torch.arange(tokens.shape[1]), ledger, in_order=False)
        frame = Frame(step, {}, {}, {})
        for kind, attention in lm.kinds.items():
            frame.rope[kind] = angles(positions[:, None], attention.frequencies, lm.dtype)
            near = self.near(positions, attention.window)
            frame.masks[kind] = (visible if near is None else visible & near)[:, None]
            frame.causal[kind] = False
        x = lm.embed(tokens)
        for module, layer in zip(lm.layers, layers, strict=True):
            x = module(x, layer, frame)
        return lm.head(x)


def within(positions: Tensor, window: int | None) -> Tensor | None:
    """`[batch, queries, keys]`: less than a window away; None: there is no window."""
    if window is None:
        return None
    return positions[:, :, None] - positions[:, None, :] < window


def reference_of(model: Any) -> Reference | None:
    """A reference on a model of one of the three libraries; None: it is none of them."""
    families = {base.__module__.split(".")[0] + "." + base.__name__ for base in type(model).__mro__}
    if "kvlab.Decoder" in families:
        return KvlabReference(model)
    if "transformers.PreTrainedModel" in families:
        from kvlab.interop.transformers import TransformersReference

        return TransformersReference(model)
    if "x_transformers.TransformerWrapper" in families:
        from kvlab.interop.x_transformers import XReference

        return XReference(model)
    return None


class OnlyFull(Reference):
    """What can be had without a model: the subject's own full recompute, which knows plain texts only."""

    def __init__(self, full: Any, vocab_size: int):
        self._full, self.vocab_size, self.model = full, vocab_size, nn.Module()

    def full(self, tokens: Tensor) -> Tensor:
        return self._full(tokens)

    def at(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        total = tokens.shape[1]
        plain = torch.arange(total).expand_as(positions)
        order = torch.ones(total, total, dtype=torch.bool).tril().expand_as(visible)
        if not torch.equal(positions, plain) or not torch.equal(visible, order):
            raise Unable
        return self._full(tokens)
