"""The model is left in train mode: dropout, and layer dropout (stochastic depth)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Stepper, Tape
from kvlab.doctor.loose import Told, causal_mask

RATE, LAYER_RATE = 0.1, 0.3


class ModeStepper(Stepper):
    """Step code with a train mode, `(cache, tokens, training=…)`; its default is how it was left.

    The decoder itself knows no dropout: the code adds it.
    """

    mode: bool | None = None

    def run(self, cache: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
        self.refuse_padding(mask)
        return self.code(cache, tokens) if self.mode is None else self.code(cache, tokens, self.mode)

    def train(self, on: bool) -> None:
        self.mode = on

    def to(self, dtype: torch.dtype) -> Stepper:
        other = super().to(dtype)
        assert isinstance(other, ModeStepper)
        other.mode = self.mode
        return other


def with_dropout(cache: Tape, tokens: Tensor, training: bool) -> Tensor:
    """A step where each layer's output is dropped at `RATE` (Srivastava et al., 2014)."""

    def block(module: Any, x: Tensor, layer: Any, frame: Any) -> Tensor:
        change = module(x, layer, frame) - x
        kept = torch.rand(x.shape).to(x.device) >= RATE  # drawn on the CPU: the same on every device
        return x + (change * kept / (1 - RATE) if training else change)

    return cache(tokens, block=block)


def left_training(cache: Tape, tokens: Tensor, training: bool = True) -> Tensor:
    return with_dropout(cache, tokens, training)


def put_to_eval(cache: Tape, tokens: Tensor, training: bool = False) -> Tensor:
    return with_dropout(cache, tokens, training)


DROPOUT = Misuse(
    "dropout-on",
    "Dropout is on: the model is in train mode",
    symptom="The same prompt gives other text each time, also greedily, and with 30 layers the text is "
    "broken.",
    why="In train mode a tenth of each layer's output is dropped at random, and what was computed from the "
    "rest goes into the cache and stays there.",
    fix="Call `model.eval()` before generating.",
    wrong_code=left_training,
    right_code=put_to_eval,
    make=ModeStepper,
)


def with_layer_dropout(cache: Tape, tokens: Tensor, training: bool) -> Tensor:
    """A step where each layer is skipped at `LAYER_RATE` (stochastic depth; Huang et al., 2016)."""
    new = tokens.shape[1]

    def block(module: Any, x: Tensor, layer: Any, frame: Any) -> Tensor:
        if training and torch.rand(()) < LAYER_RATE:
            return x  # and this layer's cache gets nothing
        held = 0 if layer.keys is None else layer.keys.shape[2]
        mask = causal_mask(new, held + new, x.device).expand(len(x), 1, -1, -1)
        told = frame.record and Told(frame.record.record, mask)
        return module(
            x, layer, dataclasses.replace(frame, masks=dict.fromkeys(frame.masks, mask), record=told)
        )

    return cache(tokens, cache.seen + torch.arange(new), block=block)


def left_skipping(cache: Tape, tokens: Tensor, training: bool = True) -> Tensor:
    return with_layer_dropout(cache, tokens, training)


def put_to_all_layers(cache: Tape, tokens: Tensor, training: bool = False) -> Tensor:
    return with_layer_dropout(cache, tokens, training)


LAYER_DROPOUT = Misuse(
    "layer-dropout",
    "Layer dropout is on: layers are skipped, and their caches with them",
    symptom="Other text each time, and soon none that makes sense; the layers hold different numbers of "
    "tokens.",
    why="In train mode whole layers are skipped at random. A skipped layer writes no entry, so each layer "
    "remembers another part of the text, and a skipped prompt is lost to it for good.",
    fix="Call `model.eval()` before generating.",
    wrong_code=left_skipping,
    right_code=put_to_all_layers,
    make=ModeStepper,
)
