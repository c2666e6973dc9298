"""Held-out plants: a decoding step over preallocated slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from heldout_base import Entries, Mini
from torch import Tensor


@dataclass
class Buffer:
    """`slots` preallocated for each layer, `[batch, heads, slots, dim]`, and how many have been filled."""

    slots: int
    entries: list[Entries]
    used: int = 0
    high: int = 0  # one more than the highest slot that was ever written


def buffered(mini: Mini, slots: int, where: Callable, see: Callable) -> Callable[..., tuple[Tensor, Buffer]]:
    """A step over preallocated slots; where(state, new): slots to write; see(state, new): who sees which."""

    def step(tokens: Tensor, state: Buffer | None = None) -> tuple[Tensor, Buffer]:
        if state is None:
            shape = (len(tokens), mini.heads, slots, mini.dim)
            room = [(torch.zeros(shape).double(), torch.zeros(shape).double()) for _ in range(mini.layers)]
            state = Buffer(slots, room)
        new, past = tokens.shape[1], state.used
        index = where(state, new)
        state.high = max(state.high, int(index.max()) + 1)

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            for room, fresh in zip(state.entries[i], (k, v), strict=True):
                for j, slot in enumerate(index.tolist()):
                    room[:, :, slot] = fresh[:, :, j]
            return state.entries[i]

        logits = mini.run(tokens, torch.arange(past, past + new), see(state, new), keep)
        state.used = past + new
        return logits, state

    return step


def in_order(state: Buffer, new: int) -> Tensor:
    return torch.arange(state.used, state.used + new)


def below(state: Buffer, new: int) -> Tensor:
    """Slot i holds position i."""
    return torch.arange(state.slots) <= in_order(state, new)[:, None]
