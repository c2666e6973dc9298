"""What the steps of the gallery run on: a cache without guards, and the tokens that came in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.models import in_dtype
from kvlab.doctor.loose import Loose
from kvlab.doctor.subject import CacheSubject, Unable

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


class Tape(Loose):
    """A `Loose` cache beside the text itself: which tokens came in, and which of them are padding.

    `ids` and `real` are `[batch, tokens]`; `real` is False at padding. Both are written after each step.
    """

    def __init__(self, lm: Decoder):
        super().__init__(lm)
        self.ids = torch.zeros(1, 0, dtype=torch.int64, device=lm.device)
        self.real = torch.zeros(1, 0, dtype=torch.bool, device=lm.device)

    @property
    def frequencies(self) -> Tensor:
        """Radians per position of each rotated pair, `[head_dim / 2]`."""
        return next(iter(self.lm.kinds.values())).frequencies

    @property
    def seen(self) -> int:
        """Tokens that came in, whatever is held of them."""
        return self.ids.shape[1]

    def note(self, tokens: Tensor, mask: Tensor | None) -> None:
        """Write down the tokens of a step, `[batch, new]`."""
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        self.ids = torch.cat([self.ids.expand(len(tokens), -1), tokens], dim=1)
        self.real = torch.cat([self.real.expand(len(tokens), -1), mask], dim=1)

    def crop(self, slots: int) -> None:
        super().crop(slots)
        self.ids, self.real = self.ids[:, :slots], self.real[:, :slots]

    def reorder(self, rows: Sequence[int]) -> None:
        super().reorder(rows)
        self.ids, self.real = self.ids[list(rows)], self.real[list(rows)]

    def fork(self) -> Tape:
        other = type(self)(self.lm)
        other.layers = super().fork().layers
        other.ids, other.real = self.ids, self.real
        return other


class Stepper(CacheSubject):
    """Step code `(cache, tokens [batch, new]) -> logits [batch, new, vocab]` as a subject of the doctor.

    A step changes its state in place, as in most libraries. Padding is refused as `Unable`.
    """

    def __init__(self, lm: Decoder, code: Callable[..., Tensor]):
        self.lm, self.code = lm, code
        self.name = f"{code.__module__.rpartition('.')[2]}.{code.__name__}"
        self.vocab_size = lm.config.vocab_size

    def new(self) -> Any:
        """The cache that a text starts with."""
        return Tape(self.lm)

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        cache = self.new() if state is None else state
        logits = self.run(cache, tokens, mask)
        cache.note(tokens, mask)
        return logits, cache

    def run(self, cache: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
        self.refuse_padding(mask)
        return self.code(cache, tokens)

    def refuse_padding(self, mask: Tensor | None) -> None:
        if mask is not None and not bool(mask.all()):
            raise Unable(f"{self.name} knows nothing of padding")

    def full(self, tokens: Tensor) -> Tensor:
        return self.lm(tokens)

    def reset(self, state: Any) -> Any:
        return self.new()

    def to(self, dtype: torch.dtype) -> Stepper:
        return type(self)(in_dtype(self.lm, dtype), self.code)


class PaddedStepper(Stepper):
    """Step code that takes a mask too: `(cache, tokens, mask [batch, new])`, False at padding."""

    def run(self, cache: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        return self.code(cache, tokens, mask)
