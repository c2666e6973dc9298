"""`bench sparse`: one layer's attention that reads less, against attention that reads everything.

Keys, values and queries are random numbers in a model's shape: what is timed depends on shapes alone. All
ways are taken in turn, so that a slow minute of the machine meets all of them, and compared round by round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.measure.clock import alternate, once
from kvlab.measure.report import Report
from kvlab.measure.tables import table
from kvlab.model.attention import attend
from kvlab.model.config import Config
from kvlab.model.selected import Question, attend_selected, fetch
from kvlab.model.sparse_prefill import attend_prompt
from kvlab.selection import AShape, BigBird, LocalWindow, Pattern, Pick, Quest, Strided
from kvlab.selection.base import spread
from kvlab.selection.quest import upper
from kvlab.stores.base import Step, View
from kvlab.stores.index import Index
from kvlab.stores.none import Passing

PAGE = 16
PART = 8  # one page in so many is read
PATTERNS: dict[str, Pattern] = {
    "window 1024": LocalWindow(1024),
    "4 sinks + 1020": AShape(4, 1020),
    "strided 64": Strided(64),
    "BigBird 32 × (5 + 1 + 2)": BigBird(32, 5, 1, 2),
}
DENSE = "dense"
ONE_THREAD = (
    "one thread, whose running time is counted: programs beside it take none of it, "
    "but they share caches and memory with it"
)


@dataclass
class Layer:
    """Keys and values of one layer after `tokens` tokens, and queries for some of them."""

    config: Config
    tokens: int
    batch: int
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        generator = torch.Generator(self.device).manual_seed(self.tokens)
        c, n = self.config, self.tokens

        def draw(heads: int, count: int) -> Tensor:
            shape = (self.batch, heads, count, c.head_dim)
            return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)

        self.keys, self.values = draw(c.num_key_value_heads, n), draw(c.num_key_value_heads, n)
        self.queries = draw(c.num_attention_heads, n)  # [batch, heads, tokens, head_dim]
        at = torch.arange(n, dtype=torch.int32, device=self.device).expand(self.batch, -1)
        self.view = View(Passing(self.keys), Passing(self.values), at.unsqueeze(1))
        self.view.heads = c.num_key_value_heads
        self.prompt = Step(at, at, at[0], self.view.positions, in_order=True)
        self.last = Step(at[:, -1:], at[:, -1:], at[0, -1:], self.view.positions, in_order=True)


def decode_ways(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """The ways to attend with one token; those that read a part read one page in eight, the best bounded."""
    q, scale = layer.queries[:, :, -1:], layer.config.scale
    quest, view = _quest(layer, PAGE)
    coarse, coarse_view = _quest(layer, 4 * PAGE)
    index = view.index
    assert index is not None
    heads = layer.config.num_key_value_heads
    grouped = q.view(layer.batch, heads, -1, q.shape[-1])
    bound = upper(grouped, index["bounds"]).amax(dim=2)
    pages = bound.topk(quest.pages, dim=-1).indices.sort(dim=-1).values
    none = torch.zeros(layer.batch, heads, 0, dtype=torch.int64, device=layer.device)
    rows = spread(pages, PAGE)
    mask = torch.zeros(layer.batch, heads, 1, layer.tokens, dtype=torch.bool, device=layer.device)
    mask.scatter_(3, rows.unsqueeze(2), True)

    def over(pick: Pick) -> Tensor:
        keys, values = (fetch(stream, pick, heads)[0] for stream in (view.keys, view.values))
        return attend(q, keys, values, None, scale)

    def chosen(quest: Quest, view: View) -> Tensor:
        read = attend_selected(quest, Question(q, view, None, scale, layer.last, kernels=False))
        assert read is not None  # there are more pages than are read
        return read.out

    return {
        DENSE: lambda: attend(q, layer.keys, layer.values, None, scale),
        "masked, all read": lambda: attend(q, layer.keys, layer.values, mask, scale),
        "tokens gathered": lambda: over(Pick(rows)),
        "pages gathered": lambda: over(Pick(none, pages=pages, page=PAGE)),
        "pages scored, gathered": partial(chosen, quest, view),
        "pages of 64 scored, gathered": partial(chosen, coarse, coarse_view),
    }


def _quest(layer: Layer, page: int) -> tuple[Quest, View]:
    """Quest over pages of so many tokens, and the layer's entries with its bounds beside them."""
    quest = Quest(page, layer.tokens // page // PART, first=0)
    view = replace(layer.view, index=Index(quest))
    assert view.index is not None
    view.index.update(layer.keys, view.positions, layer.tokens)
    return quest, view


def prefill_ways(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """A whole prompt: PyTorch's own causal attention, and patterns that skip blocks."""
    q, scale, heads = layer.queries, layer.config.scale, layer.config.num_key_value_heads

    def dense() -> Tensor:
        gqa = q.shape[1] != heads
        return F.scaled_dot_product_attention(
            q, layer.keys, layer.values, is_causal=True, scale=scale, enable_gqa=gqa
        )

    def sparse(pattern: Pattern) -> Tensor:
        read = attend_prompt(pattern, Question(q, layer.view, None, scale, layer.prompt))
        assert read is not None
        return read.out

    return {DENSE: dense, **{name: partial(sparse, pattern) for name, pattern in PATTERNS.items()}}


def pairs(pattern: Pattern | None, tokens: int) -> int:
    """Pairs of a query and a key that a pattern lets meet in a prompt; None: causal attention."""
    at = torch.arange(tokens)
    if pattern is None:
        return tokens * (tokens + 1) // 2
    blocks = ((pattern.allows(q[:, None], at) & (at <= q[:, None])).sum() for q in at.split(256))
    return int(sum(int(block) for block in blocks))


def record(
    kind: str,
    layer: Layer,
    ways: dict[str, Callable[[], Tensor]],
    rounds: int,
    report: Report,
) -> None:
    """Time the ways in turn; one row each, with its samples and the median ratio to dense, round by round.

    A first call of each is not counted. In a prompt it also cuts the tiles, which all layers share: those
    seconds are "first" less the median.
    """
    first = {name: _once(way, layer.device) for name, way in ways.items()}
    timings = alternate({name: partial(_once, way, layer.device) for name, way in ways.items()}, rounds)
    for name, timing in timings.items():
        ratio = np.median(np.divide(timings[DENSE].seconds, timing.seconds))
        row = {"kind": kind, "way": name, "tokens": layer.tokens, "batch": layer.batch}
        if kind == "prefill":
            row["pairs"] = pairs(PATTERNS.get(name), layer.tokens)
        report.add(**row, first=first[name], **timing.row(), times_dense=float(ratio))


def _once(way: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one call; with one CPU thread, those that it was running."""
    if device.type != "cpu" or torch.get_num_threads() > 1:
        return once(way, device)
    start = time.thread_time()
    way()
    return time.thread_time() - start


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `kvlab bench sparse`."""
    sub.add_argument("--model", default="smollm2-135m", metavar="NAME", help="whose shape to take")
    sub.add_argument("--contexts", nargs="*", type=int, default=[8192, 16384, 32768], metavar="TOKENS",
                     help="of one decode step")  # fmt: skip
    sub.add_argument("--prompts", nargs="*", type=int, default=[8192, 16384], metavar="TOKENS")
    sub.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="of a decode step")
    sub.add_argument("--repeats", type=int, default=9, help="rounds of a prompt, ten times as many of a step")


def run(
    args: argparse.Namespace, device: torch.device, report: Report, bar: Callable[..., Iterable[int]]
) -> str:
    """All points of `kvlab bench sparse`; the table that is printed last."""
    from kvlab.zoo import SHAPES

    if args.model not in SHAPES:
        raise ValueError(f"sparse needs a model's shape; {args.model!r} is none of {', '.join(SHAPES)}.")
    least = 4 * PAGE * PART
    small = [n for n in (*args.contexts, *args.prompts) if n < least]
    if small:
        raise ValueError(f"a context needs {least} tokens or more, so that pages can be left out.")
    if device.type == "cpu" and torch.get_num_threads() == 1:
        report.notes.append(ONE_THREAD)
    dtype, config = getattr(torch, args.dtype), SHAPES[args.model]
    with torch.no_grad():
        for tokens in bar(args.contexts, "decode"):
            for batch in args.batches:
                layer = Layer(config, tokens, batch, device, dtype)
                record("decode", layer, decode_ways(layer), 10 * args.repeats, report)
        for tokens in bar(args.prompts, "prefill"):
            layer = Layer(config, tokens, 1, device, dtype)
            record("prefill", layer, prefill_ways(layer), args.repeats, report)
    return sparse_table(report)


def sparse_table(report: Report) -> str:
    """Milliseconds of one layer, and how many times faster than dense attention."""
    rows = [
        {name: row[name] for name in ("kind", "tokens", "batch", "way")}
        | {"ms": 1e3 * row["median"], "× dense": row["times_dense"], "pairs": row.get("pairs")}
        for row in report.rows
    ]
    return table(rows)
