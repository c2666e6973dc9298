"""A cache that keeps gradients keeps every activation of every step alive."""

from __future__ import annotations

import torch

from kvlab.doctor.graphs import Watch
from kvlab.doctor.held import tensors_in
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import Patient
from kvlab.doctor.report import Finding


def probe(patient: Patient) -> list[Finding]:
    """Two steps with autograd switched on around them, as in a plain script."""
    tokens = patient.text(4, seed=15)
    with torch.enable_grad(), Watch() as watch:
        logits, state = patient.native.step(tokens[:, :3], None)
        logits, state = patient.native.step(tokens[:, 3:], state)
    in_logits = logits.requires_grad
    del logits
    held = [t for t in tensors_in(state) if t.requires_grad and t.grad_fn is not None]
    alive = 0 if held else watch.alive()
    if not held and not in_logits and not alive:
        return []
    where = f"{len(held)} tensors of the state carry a graph" if held else "the logits carry a graph"
    if alive and not in_logits:
        where = f"{alive} tensors saved for a backward pass are still held"
    return [
        Finding(
            "gradients-kept",
            f"{where} after two steps: the activations of all steps stay in memory",
            fix_of(("gradients-kept",)),
        )
    ]
