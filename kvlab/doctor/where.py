"""In which layer a wrong token first goes wrong: what the layers give out, beside what they should."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kvlab.doctor.patient import Patient
from kvlab.doctor.schedule import Schedule, run
from kvlab.doctor.subject import Unable


class Listening:
    """While open, keeps the last output of each layer, `[batch, new, hidden]`."""

    def __init__(self, layers: list[nn.Module]):
        self.layers, self.heard = layers, {}  # type: ignore[var-annotated]

    def __enter__(self) -> dict[int, Tensor]:
        self.handles = [layer.register_forward_hook(self._keep(i)) for i, layer in enumerate(self.layers)]
        return self.heard

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, index: int) -> Any:
        def keep(module: nn.Module, args: Any, out: Any) -> None:
            first = out[0] if isinstance(out, tuple) else out
            if isinstance(first, Tensor):
                self.heard[index] = first.detach()

        return keep


def first_layer(patient: Patient, schedule: Schedule, token: int | None) -> int | None:
    """The first layer whose output at `token` is not what full recompute gives there; None: not to be had."""
    reference = patient.reference
    if reference is None or token is None or schedule.real is not None:
        return None
    part = schedule.cut(token + 1)
    layers = reference.layers()
    try:
        with Listening(layers) as heard:
            run(patient.subject, part)
            stepped = {i: x[:, -1] for i, x in heard.items() if x.dim() == 3}
        with Listening(layers) as heard:
            reference.full(part.tokens)
            expected = {i: x[:, -1] for i, x in heard.items() if x.dim() == 3}
    except (Unable, RuntimeError):
        return None
    for i in sorted(stepped.keys() & expected.keys()):
        a, b = stepped[i], expected[i]
        if a.shape == b.shape and float((a - b).abs().max()) > 1e-4 * float(b.double().std() + 1e-30):
            return i
    return None
