"""`bench prefill`: how fast a prompt is taken, against its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from kvlab.cache import Cache
from kvlab.measure.clock import alternate, once
from kvlab.measure.decode import Point, prompt
from kvlab.measure.flops import forward_flops
from kvlab.measure.peers import transformers_twin
from kvlab.measure.report import Report
from kvlab.measure.roofline import Ceilings
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def prefill(lm: Decoder, model: str, points: Sequence[Point], ceilings: Ceilings, report: Report) -> None:
    """Add a row for each point and library: time of the prompt's forward call, last logits only."""
    try:
        twin = transformers_twin(lm)
    except ImportError:
        twin = None
        report.notes.append("transformers is not installed: its rows are missing.")
    for point in points:
        ids = prompt(lm, point)
        calls = _calls(lm, twin, ids)
        for call in calls.values():
            call()
        samplers = {name: _sampler(call, lm.device) for name, call in calls.items()}
        for label, timing in alternate(samplers, point.rounds).items():
            flops = forward_flops(lm.config, point.context, logits=1, batch=point.batch).total
            tokens = point.batch * point.context
            report.add(
                model=model,
                tokens=point.context,
                batch=point.batch,
                label=label,
                **timing.row(),
                tokens_per_second=tokens / timing.median,
                flops=flops,
                flops_per_second=flops / timing.median,
                matmul_fraction=flops / timing.median / ceilings.matmul,
            )


def _calls(lm: Decoder, twin: Any, ids: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Each library's prompt, into a new dynamic cache."""

    def ours() -> Any:
        with torch.no_grad():
            return lm(ids, Cache(lm), last_only=True)

    def theirs() -> Any:
        from transformers import DynamicCache

        with torch.no_grad():
            cache = DynamicCache(config=twin.config)
            return twin(input_ids=ids, past_key_values=cache, logits_to_keep=1)

    calls = {"kvlab dynamic": ours}
    return calls if twin is None else calls | {"transformers DynamicCache": theirs}


def _sampler(call: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    return lambda: once(call, device)


def prefill_table(report: Report) -> str:
    """The table that is printed last."""
    rows = [
        {
            "model": row["model"],
            "tokens": row["tokens"],
            "batch": row["batch"],
            "path": row["label"],
            "ms": row["median"] * 1e3,
            "tokens/s": row["tokens_per_second"],
            "GFLOP/s": row["flops_per_second"] / 1e9,
            "% of matmul rate": 100 * row["matmul_fraction"],
        }
        for row in report.rows
    ]
    return table(rows)
