"""The part of `bench gpu` about prompts: block-sparse attention against PyTorch's own causal attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvlab.measure.clock import once
from kvlab.measure.gpu import Run, free_memory
from kvlab.measure.report import Report
from kvlab.measure.sparse import PATTERNS, Layer, prefill_ways, record
from kvlab.measure.tables import table
from kvlab.model import flex
from kvlab.model.attention import attend
from kvlab.selection.pattern import Pattern

CHECKED = 128  # queries at the end of the prompt whose attention is checked in float64


def prefill(run: Run, report: Report) -> str:
    """One layer's prompt under fixed patterns: on CUDA by FlexAttention, one kernel a pattern and length."""
    from kvlab.zoo import SHAPES

    plan = run.plan
    # Each pattern and length is one more variant of FlexAttention's kernel; torch gives up at eight.
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=64):
        for tokens in plan.prompt_points:
            if run.late:
                report.notes.append(f"{tokens} tokens were not begun: the time was out")
                continue
            layer = Layer(SHAPES[plan.gqa], tokens, 1, plan.device, plan.dtype)
            report.parameters["served"] = (
                flex.SERVED if flex.runs(layer.queries) else "plain PyTorch, by tiles"
            )
            _point(run, report, layer)
            del layer
            free_memory()
    rows = [row | {"ms": 1e3 * row["median"], "compiled s": row["first"]} for row in report.rows]
    return table(rows, ["shape", "tokens", "way", "ms", "times_dense", "pairs", "compiled s", "kernel_error"])


def _point(run: Run, report: Report, layer: Layer) -> None:
    """All ways at one length; one that fails at its first call is noted, and left out."""
    ways: dict[str, Callable[[], Tensor]] = {}
    first, errors = {}, {}
    for name, way in prefill_ways(layer).items():
        try:
            first[name] = once(way, layer.device)
            errors[name] = kernel_error(layer, PATTERNS.get(name), way())
        except Exception as error:
            report.fail(f"{name}, {layer.tokens} tokens", error)
            continue
        ways[name] = way
    before = len(report.rows)
    record("prefill", layer, ways, run.plan.rounds, report)
    for row in report.rows[before:]:
        name = row["way"]
        row |= {"shape": layer.config.name, "first": first[name], "kernel_error": errors[name]}
    report.save()


def kernel_error(layer: Layer, pattern: Pattern | None, out: Tensor) -> float:
    """How far the last queries of `out [batch, heads, tokens, head_dim]` are from float64 under a mask."""
    at = torch.arange(layer.tokens, device=layer.device)
    newest = at[-CHECKED:, None]
    mask = at <= newest
    if pattern is not None:
        mask = mask & pattern.allows(newest, at)
    q, keys, values = (x.double() for x in (layer.queries[:, :, -CHECKED:], layer.keys, layer.values))
    wanted = attend(q, keys, values, mask[None, None], layer.config.scale)
    return float((out[:, :, -CHECKED:].double() - wanted).norm() / wanted.norm())
