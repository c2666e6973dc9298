"""What all other methods are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kvlab
from kvlab.measure.methods.registry import method, share
from kvlab.measure.quality_runs import Task

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def _static(lm: Decoder, task: Task) -> dict[str, Any]:
    return {"store": "static", "capacity": task.total, "batch": task.rows}


method("full", "reference", "every entry, exact", lambda lm, task: {})
method("static", "reference", "every entry, exact, preallocated", _static)
method("oracle-25", "reference", "reads the best 25 % of the entries, chosen with full scores",
       lambda lm, task: {"selection": kvlab.TopK(k=share(task, 0.25))})  # fmt: skip
