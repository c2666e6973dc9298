"""A cache that keeps gradients keeps every activation of every step alive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding


def probe(patient: Patient) -> list[Finding]:
    """Two steps with autograd switched on around them, as in a plain script."""
    tokens = patient.text(4, seed=15)
    with torch.enable_grad():
        logits, state = patient.native.step(tokens[:, :3], None)
        logits, state = patient.native.step(tokens[:, 3:], state)
    held = [t for t in tensors_in(state) if t.requires_grad and t.grad_fn is not None]
    if not held and not logits.requires_grad:
        return []
    where = f"{len(held)} tensors of the state" if held else "the logits"
    return [
        Finding(
            "gradients-kept",
            f"{where} carry a graph after two steps: the activations of all steps stay in memory",
            fix_of(("gradients-kept",)),
        )
    ]


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
