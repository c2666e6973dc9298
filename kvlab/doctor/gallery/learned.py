"""The same decoder with learned absolute positions instead of rotary ones, to compare the two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.tape import PaddedStepper, Tape
from kvlab.model.decoder import Call, call

TABLE = 256  # positions


class LearnedTape(Tape):
    """Adds a row of a table to each embedding and rotates nothing.

    No model here was trained with such a table. Its rows are random, as large as the embeddings: enough to
    show whether two positions are the same to a model, and not what it would write.
    """

    def __call__(
        self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, block: Call = call
    ) -> Tensor:
        lm = self.lm
        if positions is None:
            positions = self.seen + torch.arange(ids.shape[1])
        if int(positions.max()) >= TABLE:
            raise ValueError(f"the table of learned positions ends at {TABLE}; give a shorter text.")
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(TABLE, lm.config.hidden_size, generator=generator)
        table = table.to(lm.device, lm.dtype) * lm.embed_tokens.weight[:TABLE].std()

        def with_table(module: Any, x: Tensor, layer: Any, frame: Any) -> Tensor:
            if module is lm.layers[0]:
                x = x + table[positions.to(lm.device)]
            return block(module, x, layer, frame)

        nowhere = torch.zeros_like(positions)  # an angle of zero
        return super().__call__(ids, nowhere, mask, with_table)


class LearnedStepper(PaddedStepper):
    """Step code on a model with learned positions."""

    def new(self) -> LearnedTape:
        return LearnedTape(self.lm)

    def full(self, tokens: Tensor) -> Tensor:
        return self.new()(tokens)
