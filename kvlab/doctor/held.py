"""What a state holds, as far as it can be seen: tensors, and how many entries a layer has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tensors_in(thing: Any, depth: int = 6, met: set[int] | None = None) -> list[Tensor]:
    """Tensors that a state holds, through attributes, dicts and lists; models in it are left out."""
    met = set() if met is None else met
    if depth < 0 or id(thing) in met or isinstance(thing, (str, int, float, type, torch.nn.Module)):
        return []
    met.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        parts: Any = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = thing
    else:
        parts = list(getattr(thing, "__dict__", {}).values())
    return [tensor for part in parts for tensor in tensors_in(part, depth - 1, met)]


def entries(state: Any) -> int | None:
    """Entries of a layer: what the state says, else the slots of its `[batch, heads, slots, head_dim]`."""
    stored = getattr(state, "tokens_stored", None)
    if isinstance(stored, Tensor) and stored.numel():
        return int(stored.max())
    for name in ("get_seq_length", "length", "cache_length"):
        said = getattr(state, name, None)
        said = said() if callable(said) else said
        if isinstance(said, int):
            return said
    slots = {t.shape[2] for t in tensors_in(state) if t.dim() == 4}
    return slots.pop() if len(slots) == 1 else None
