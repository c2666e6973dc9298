"""The parts of `bench gpu` about the kernels: packed keys and values, and chosen pages, against SDPA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab import kernels
from kvlab.codecs.base import Packed
from kvlab.codecs.quantize import Quantize
from kvlab.measure.clock import measure
from kvlab.measure.gpu import Run
from kvlab.measure.gpu_attention import exact_attention, graphed, inputs_of
from kvlab.measure.report import Report
from kvlab.measure.tables import table
from kvlab.model.attention import attend
from kvlab.model.config import Config
from kvlab.selection.base import grouped, shares
from kvlab.selection.quest import bounds, upper
from kvlab.stores.stream import nbytes

GROUP = 32  # tokens of a channel, or channels of a token, that share a scale
PAGE = 16
SHARE = 16  # one page of so many is read


@dataclass
class Contestant:
    """A way to attend, the bytes of the cache that it reads, and what the first sequence should give."""

    attend: Callable[[], Tensor]
    bytes: int
    first_row: Callable[[], Tensor] | None = None  # in float64, over the same codes or pages


Contestants = Iterator[tuple[str, Contestant]]  # one after the other: all at once might not fit


def quantized(run: Run, report: Report) -> str:
    """One query over entries packed in 8, 4 and 2 bits, decoded in the kernel, against SDPA in 16 bits."""
    return _compare(run, report, _quantized_ways)


def pages(run: Run, report: Report) -> str:
    """One query over a sixteenth of the pages, Quest's choice included, against SDPA over all of them."""
    return _compare(run, report, _page_ways)


def _compare(run: Run, report: Report, make: Callable[..., Contestants]) -> str:
    from kvlab.zoo import SHAPES

    why_not = kernels.why_not(run.plan.device)
    if why_not:
        report.notes.append(f"skipped: {why_not}.")
        return "(skipped)"
    report.parameters |= {"group_size": GROUP, "page_size": PAGE, "pages": f"1/{SHARE}"}
    for shape in dict.fromkeys((run.plan.mha, run.plan.gqa)):
        for slots, batch in run.plan.kernel_points:
            if run.late:
                report.notes.append(f"{shape}, {slots} slots, batch {batch} was not begun: the time was out")
                continue
            try:
                _point(run, report, SHAPES[shape], slots, batch, make)
            except torch.OutOfMemoryError as error:
                report.fail(f"{shape}, {slots} slots, batch {batch}", error)
    rows = [row | {"µs": row["median"] * 1e6} for row in report.rows]
    columns = ["shape", "slots", "batch", "way", "µs", "times_dense", "bytes"]
    return table(rows, [*columns, "relative_error", "kernel_error"])


def _point(
    run: Run, report: Report, c: Config, slots: int, batch: int, make: Callable[..., Contestants]
) -> None:
    """Every way at one size. `relative_error`: against float64 attention over all the exact entries, so it
    holds what codes or left-out pages cost; `kernel_error`: against the same codes or pages in float64."""
    plan = run.plan
    inputs = inputs_of(c.num_attention_heads, c.num_key_value_heads, c.head_dim, slots, batch, plan)
    expected = exact_attention(inputs, c.scale)
    repeats, calls = (10, 10) if plan.device.type == "cuda" else (2, 1)
    dense: float | None = None
    for label, way in make(*inputs, c.scale):
        try:
            out = way.attend()
            wanted = way.first_row() if way.first_row else expected[:1]
            errors = _error(out, expected), _error(out[:1], wanted)
            replay = graphed(way.attend) if plan.device.type == "cuda" else way.attend
            timing = measure(replay, plan.device, repeats=repeats, warmup=1, calls=calls)
        except Exception as failed:
            report.fail(f"{label}, {c.name}, {slots} slots, batch {batch}", failed)
            continue
        row: dict[str, Any] = {**timing.row(), "bytes": way.bytes}
        dense = dense or row["median"]
        report.add(
            shape=c.name, slots=slots, batch=batch, way=label, times_dense=dense / row["median"],
            copy_bandwidth_fraction=run.ceilings.copy_bound(way.bytes) / row["median"],
            relative_error=errors[0], kernel_error=errors[1], **row,
        )  # fmt: skip


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def _quantized_ways(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Contestants:
    """SDPA in 16 bits; for 8, 4 and 2 bits the kernel, and decoding to memory."""
    from kvlab.kernels.quantized import attend_quantized, attend_quantized_reference

    visible, none = mask[:, 0], keys[:, :, :0]  # visible: [batch, 1, slots]
    yield "SDPA, 16 bits", Contestant(lambda: attend(q, keys, values, None, scale), nbytes([keys, values]))
    group = min(GROUP, q.shape[-1])
    for bits in (8, 4, 2):
        by_channel, by_token = Quantize(bits, "channel", GROUP), Quantize(bits, "token", group)
        k, v = _packed(keys, by_channel), _packed(values, by_token)

        def kernel(k: Packed = k, v: Packed = v, bits: int = bits) -> Tensor:
            return attend_quantized(q, k, v, bits, none, none, visible, scale)

        def first(k: Packed = k, v: Packed = v, bits: int = bits) -> Tensor:
            one, other = ({name: part[:1] for name, part in packed.items()} for packed in (k, v))
            query, exact = q[:1].double(), none[:1].double()
            return attend_quantized_reference(query, one, other, bits, exact, exact, visible[:1], scale)

        def decoded(
            k: Packed = k, v: Packed = v, of_k: Quantize = by_channel, of_v: Quantize = by_token
        ) -> Tensor:
            return attend(q, of_k.decode(k, q.dtype), of_v.decode(v, q.dtype), None, scale)

        held = nbytes([*k.values(), *v.values()])
        yield f"int{bits}, decoded in the kernel", Contestant(kernel, held, first)
        yield f"int{bits}, decoded to memory, then SDPA", Contestant(decoded, held, first)


def _packed(x: Tensor, codec: Quantize) -> Packed:
    """Encoded one sequence at a time: encoding works in float32, and the whole would need four times more."""
    rows = [codec.encode(row.unsqueeze(0)) for row in x]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _page_ways(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Contestants:
    """SDPA over everything; a sixteenth of the pages, with and without the time of choosing them."""
    from kvlab.kernels.pages import attend_pages, attend_pages_reference

    visible, slots = mask[:, 0], keys.shape[2]  # visible: [batch, 1, slots]
    held = bounds(keys, visible, PAGE)  # [batch, kv_heads, pages, 2 * head_dim]
    every = torch.ones(1, 1, held.shape[2], dtype=torch.bool, device=q.device)
    count = max(1, slots // PAGE // SHARE)
    none = torch.zeros(len(q), 1, 0, dtype=torch.int64, device=q.device)  # no single slots

    def choose() -> Tensor:
        scores = shares(upper(grouped(q, keys.shape[1]), held) * scale, every)
        return scores.topk(count, dim=-1, sorted=False).indices

    def first() -> Tensor:
        query, k, v = (t[:1].double() for t in (q, keys, values))
        return attend_pages_reference(query, k, v, ready[:1], PAGE, none[:1], visible[:1], scale)

    ready = choose()
    read = nbytes([keys, values]) * count * PAGE // slots
    everything = nbytes([keys, values])
    yield "SDPA over all", Contestant(lambda: attend(q, keys, values, None, scale), everything)
    yield (
        "pages, chosen before",
        Contestant(lambda: attend_pages(q, keys, values, ready, PAGE, none, visible, scale), read, first),
    )
    yield (
        "Quest: choose, then pages",
        Contestant(
            lambda: attend_pages(q, keys, values, choose(), PAGE, none, visible, scale),
            read + nbytes([held]),
            first,
        ),
    )
