"""Taking tokens back from a ring, which has already overwritten what they replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.scenes import cropped
from kvlab.doctor.gallery.tape import Stepper, Tape

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

WINDOW = 8  # tokens that a query sees, its own included,
SINKS = 4  # and the first of the text, without which a model that was trained without a window falls apart


class Ring(Tape):
    """A cache for a window in every layer: sinks, the newest entries, and the positions `held` of all."""

    def __init__(self, lm: Decoder):
        super().__init__(lm)
        self.held = torch.zeros(0, dtype=torch.int64)

    def __call__(self, ids: Tensor, *_: Any, **__: Any) -> Tensor:
        positions = self.seen + torch.arange(ids.shape[1])
        self.held = torch.cat([self.held, positions])
        distance = positions[:, None] - self.held  # [new, slots]
        near = (distance < WINDOW) | (self.held < SINKS)
        logits = super().__call__(ids, positions, (distance >= 0) & near)
        self.keep_held(near[-1])
        return logits

    def keep_held(self, which: Tensor) -> None:
        """Keep the slots where `which [slots]` is True."""
        self.keep(which.nonzero()[:, 0].tolist())
        self.held = self.held[which]

    def take_back(self, length: int) -> None:
        """Forget all tokens but the first `length`, with the entries that are held of them."""
        self.keep_held(self.held < length)
        self.ids, self.real = self.ids[:, :length], self.real[:, :length]

    def fork(self) -> Tape:
        other = super().fork()
        assert isinstance(other, Ring)
        other.held = self.held
        return other


def wrong(ring: Ring, length: int) -> None:
    ring.take_back(length)


def right(ring: Ring, length: int) -> None:
    text = ring.ids[:, :length]
    ring.take_back(0)
    ring(text)
    ring.note(text, None)


class RingStepper(Stepper):
    """A right step over a ring; the code is how tokens are taken back."""

    def new(self) -> Ring:
        return Ring(self.lm)

    def run(self, cache: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
        self.refuse_padding(mask)
        return cache(tokens)

    def full(self, tokens: Tensor) -> Tensor:
        return self.new()(tokens)

    def crop(self, state: Any, length: int) -> Any:
        self.code(state, length)
        return state


MISUSE = Misuse(
    "crop-on-ring",
    "Tokens are taken back from a ring",
    symptom="Plain decoding is exact. After a rejected draft or an edited prompt the model has forgotten "
    "more than was taken back.",
    why="A ring made room for the tokens by overwriting the oldest of its window. Taking the new ones back "
    "leaves their places empty: the old entries are gone.",
    fix="Compute the window again, or let the ring hold as many entries more as may be taken back.",
    wrong_code=wrong,
    right_code=right,
    scene=cropped,
    make=RingStepper,
)
