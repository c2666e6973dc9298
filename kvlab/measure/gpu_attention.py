"""One decode step's attention alone: what one layer's pass over its keys and values could cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvlab.measure.clock import measure
from kvlab.measure.gpu import Plan, Run
from kvlab.measure.report import Report
from kvlab.measure.tables import table
from kvlab.model.attention import attend
from kvlab.model.config import Config

Way = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, keys, values, mask


def attention(run: Run, report: Report) -> str:
    """Ways to attend with one query a sequence, over the KV heads of both shapes, against bandwidth."""
    from kvlab.zoo import SHAPES

    plan = run.plan
    report.parameters["ceilings"] = vars(run.ceilings)
    # Every size is one more variant of each compiled way; torch gives up at eight.
    with torch._dynamo.config.patch(recompile_limit=64):
        for shape in dict.fromkeys((plan.mha, plan.gqa)):
            for slots, batch in plan.attention_points:
                _point(run, report, SHAPES[shape], slots, batch)
    rows = [
        row | {"µs": row["median"] * 1e6, "% of copy": 100 * row["copy_bandwidth_fraction"]}
        for row in report.rows
    ]
    return table(rows, ["shape", "slots", "batch", "way", "µs", "% of copy", "relative_error"])


def _point(run: Run, report: Report, c: Config, slots: int, batch: int) -> None:
    """All ways, for the heads of one shape; one that fails is noted, and left out."""
    device = run.plan.device
    inputs = inputs_of(c.num_attention_heads, c.num_key_value_heads, c.head_dim, slots, batch, run.plan)
    expected = exact_attention(inputs, c.scale)
    for label, way in ways(device).items():
        try:
            row = _measure(way, inputs, c.scale, expected, device)
        except Exception as error:
            report.fail(f"{label}, {c.name}, {slots} slots, batch {batch}", error)
            continue
        share = run.ceilings.copy_bound(row["bytes"]) / row["median"]
        report.add(shape=c.name, slots=slots, batch=batch, way=label, copy_bandwidth_fraction=share, **row)


def ways(device: torch.device) -> dict[str, Way]:
    """The candidates. All but the second read every slot under a mask, as a static store needs."""
    found: dict[str, Way] = {
        "SDPA with a mask (static store)": attend,
        "SDPA without a mask (dynamic store)": lambda q, k, v, mask, scale: attend(q, k, v, None, scale),
    }
    if device.type == "cuda":
        options: dict[str, Any] = {"coordinate_descent_tuning": True}
        found["matrix products, compiled"] = torch.compile(
            products, dynamic=False, fullgraph=True, options=options
        )
        found["multiply and sum, compiled"] = torch.compile(
            sums, dynamic=False, fullgraph=True, options=options
        )
        found["flex_attention, compiled"] = torch.compile(flex, dynamic=False, fullgraph=True)
    return found


def products(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The formula as two matrix products; the query heads of a KV head are rows."""
    batch, heads, _, dim = q.shape
    rows = q.view(batch, keys.shape[1], -1, dim)
    scores = (rows @ keys.transpose(-1, -2)).float() * scale
    p = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return (p.to(values.dtype) @ values).view(batch, heads, 1, dim)


def sums(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The formula as products of elements and sums, laid out so that a key's row serves all its queries."""
    batch, heads, _, dim = q.shape
    rows = q.view(batch, keys.shape[1], 1, -1, dim)
    # [batch, kv_heads, slots, group]
    scores = (rows * keys.unsqueeze(3)).sum(dim=-1, dtype=torch.float32) * scale
    p = scores.masked_fill(~mask.transpose(-1, -2), float("-inf")).softmax(dim=2)
    mixed = (p.unsqueeze(-1) * values.unsqueeze(3)).sum(dim=2)  # [batch, kv_heads, group, dim]
    return mixed.to(values.dtype).view(batch, heads, 1, dim)


def flex(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """PyTorch's flex_attention, which splits the slots over the GPU where there is one query."""
    from torch.nn.attention.flex_attention import flex_attention

    seen = mask[:, 0, 0]  # [batch, slots]

    def masked(score: Tensor, b: Tensor, h: Tensor, query: Tensor, slot: Tensor) -> Tensor:
        return torch.where(seen[b, slot], score, float("-inf"))

    grouped = q.shape[1] != keys.shape[1]
    return flex_attention(q, keys, values, score_mod=masked, scale=scale, enable_gqa=grouped)


def inputs_of(heads: int, kv_heads: int, dim: int, slots: int, batch: int, plan: Plan) -> Inputs:
    generator = torch.Generator(plan.device).manual_seed(slots)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=plan.device, dtype=plan.dtype, generator=generator)

    q = draw(batch, heads, 1, dim)
    keys, values = draw(batch, kv_heads, slots, dim), draw(batch, kv_heads, slots, dim)
    # The mask of a full cache: everything may be seen, so that all ways compute the same.
    mask = torch.ones(batch, 1, 1, slots, dtype=torch.bool, device=plan.device)
    return q, keys, values, mask


def exact_attention(inputs: Inputs, scale: float) -> Tensor:
    """In float64, one sequence and KV head at a time: the whole would not fit."""
    q, keys, values, _ = inputs
    batch, heads = q.shape[:2]
    group = heads // keys.shape[1]
    out = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    for b in range(batch):
        for h in range(keys.shape[1]):
            rows = q[b, h * group : (h + 1) * group, 0].double()
            p = (rows @ keys[b, h].double().T * scale).softmax(dim=-1)
            out[b, h * group : (h + 1) * group, 0] = p @ values[b, h].double()
    return out


def _measure(
    way: Way, inputs: Inputs, scale: float, expected: Tensor, device: torch.device
) -> dict[str, Any]:
    q, keys, values, mask = inputs
    out = way(q, keys, values, mask, scale)
    error = float((out.double() - expected).norm() / expected.norm())

    def call() -> object:
        return way(q, keys, values, mask, scale)

    replay = graphed(call) if device.type == "cuda" else call
    timing = measure(replay, device, repeats=10, warmup=2, calls=10)
    moved = sum(t.nbytes for t in (keys, values))
    return {**timing.row(), "bytes": moved, "relative_error": error}


def graphed(function: Callable[[], object]) -> Callable[[], object]:
    """`function` as one CUDA graph, so that launching it costs next to nothing."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
