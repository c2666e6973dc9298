"""`bench together`: four bits, an eviction and a selection on one cache, each alone, and none of them.

The honest baseline of practice holds 16 bits a number, so what is not written in four is written in 16.
Contexts are real prose with numbers hidden in it; the prose goes on behind them. One pass of the model over
the contexts serves all ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.codecs import KIVI, Float16, Quantize
from kvlab.eviction import SnapKV
from kvlab.measure.clock import ONE_THREAD, alternate, running
from kvlab.measure.quality import kept_reference
from kvlab.measure.quality_runs import Prompt, continuation, needles, uncoded_bytes
from kvlab.measure.quality_stats import each_needle, geometric
from kvlab.measure.quality_texts import Haystack, haystack
from kvlab.measure.report import Report
from kvlab.measure.tables import table
from kvlab.selection import Quest

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

PAGE = 16
FULL = "16 bits"
WAYS = (
    *(FULL, "int4", "SnapKV", "Quest", "int4 + SnapKV + Quest"),
    *("int4 + SnapKV", "int4 + Quest", "SnapKV + Quest", "KIVI + Quest"),
)
EVALUATIONS = ("bytes", "kl", "needles", "time")
WINDOW = 32  # queries that SnapKV looks at, and entries that it keeps in any case


@dataclass(frozen=True)
class Budget:
    """Of `tokens` entries SnapKV keeps one in `keep`; Quest reads one page in `read`."""

    tokens: int
    keep: int = 4
    read: int = 8

    def arguments(self, way: str, lm: Decoder) -> dict[str, Any]:
        """What `kvlab.Cache` is given for a way. Sixteen bits are a codec where the model has more."""
        names = way.split(" + ")
        group = min(32, lm.config.head_dim)
        four = Quantize(4, "token", group, residual=32)  # the codes of a token lie by themselves
        codecs = {"int4": four, "KIVI": KIVI(4, group, residual=32)}
        plain = Float16() if lm.dtype.itemsize > 2 else None
        knobs: dict[str, Any] = {"codec": next((codecs[n] for n in names if n in codecs), plain)}
        if "SnapKV" in names:
            knobs["eviction"] = SnapKV(self.tokens // self.keep, WINDOW)
        if "Quest" in names:
            knobs["selection"] = Quest(PAGE, self.tokens // self.read // PAGE)
        return knobs


def contexts(lm: Decoder, rows: int, tokens: int, further: int) -> tuple[Haystack, Tensor]:
    """`rows` contexts of `tokens` tokens with three numbers in each; the prose after them `[rows, further]`.

    Raises:
        ValueError: a number would lie in the prose after a context.
    """
    hay = haystack(lm, rows, tokens + further)
    ids, later = hay.ids[:, :tokens], hay.ids[:, tokens:]
    for row, (key, city) in enumerate(zip(hay.answers["key"], hay.answers["two"], strict=True)):
        text = lm.tokenizer.decode(later[row].tolist())
        if key in text or city in text or "magic number" in text:
            raise ValueError(f"context {row} has a needle among its last {further} tokens; take fewer.")
    return replace(hay, ids=ids), later


@dataclass
class Run:
    """What all ways share: the contexts, and what the model makes of them."""

    lm: Decoder
    budget: Budget
    rows: int
    further: int
    evaluations: tuple[str, ...]

    def __post_init__(self) -> None:
        self.reads = {"kl", "needles"} & set(self.evaluations)  # what needs a text, not ids alone
        if not self.reads:
            draw = torch.Generator().manual_seed(self.budget.tokens)
            shape = (1, self.budget.tokens)
            ids = torch.randint(0, self.lm.config.vocab_size, shape, generator=draw).to(self.lm.device)
        else:
            self.hay, self.later = contexts(self.lm, self.rows, self.budget.tokens, self.further)
            ids = self.hay.ids
        self.prompt = Prompt.take(self.lm, ids)
        self.first = Prompt(ids[:1], [x[:1] for x in self.prompt.inputs])  # bytes and times are of one row
        if "kl" in self.reads:
            self.full = kept_reference(self.lm, self.prompt, self.later)

    def empty(self, way: str) -> Cache:
        """A cache of that kind."""
        return Cache(self.lm, **self.budget.arguments(way, self.lm))

    def quality(self, way: str) -> dict[str, Any]:
        """Bytes, KL and needles of one way, those that were asked for."""
        found: dict[str, Any] = {}
        if "bytes" in self.evaluations:
            found["bytes"] = held(self.first.fill(self.lm, self.empty(way)), self.lm, self.first.ids[:, -1:])
        if "kl" in self.evaluations:
            kl = continuation(self.lm, self.empty(way), self.prompt, self.later, self.full)
            found |= {name: kl[name] for name in ("kl", "agree", "nll", "nll_full")}
        if "needles" in self.evaluations:
            right = needles(self.lm, self.empty(way), self.prompt, self.hay)
            found["needles"] = {str(self.budget.tokens): right}
        return found

    def times(self, ways: Iterable[str], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
        """Seconds of a step of each way, as `times` gives them."""
        filled = {way: self.first.fill(self.lm, self.empty(way)) for way in ways}
        return times(self.lm, filled, self.first.ids[:, -1:], rounds, steps)


def held(cache: Cache, lm: Decoder, token: Tensor) -> dict[str, int]:
    """Bytes held after the prompt, those of them that are not coded, and those that a step reads.

    token: `[rows, 1]`. The second step counts: in the first, pages that an eviction changed are bounded anew.
    """
    found = {"stored": cache.nbytes, "uncoded": uncoded_bytes(cache)}
    with torch.no_grad():
        for _ in range(2):
            lm(token, cache, last_only=True)
    return {**found, "read": cache.bytes_read}


def times(
    lm: Decoder, filled: dict[str, Cache], token: Tensor, rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Seconds of a step of each cache, taken in turn, and how many times faster than FULL: the median of the
    rounds' ratios.

    filled: way -> cache after the prompt; token: `[rows, 1]`. A sample is the mean of `steps` steps, which
    are then taken back.
    """

    def sampler(cache: Cache) -> Callable[[], float]:
        def several() -> None:
            for _ in range(steps):
                lm(token, cache, last_only=True)

        def sample() -> float:
            seconds = running(several, lm.device) / steps
            cache.crop(cache.used - steps)
            return seconds

        return sample

    samplers = {way: sampler(cache) for way, cache in filled.items()}
    with torch.no_grad():
        for sample in samplers.values():  # not counted: stores grow, pages are bounded
            sample()
        timings = alternate(samplers, rounds)
    base = timings[FULL].seconds
    return {
        way: {**timing.row(), "times_full": float(np.median(np.divide(base, timing.seconds)))}
        for way, timing in timings.items()
    }


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `kvlab bench together`."""
    sub.add_argument("--tokens", type=int, default=8000, help="of a context (default: 8000)")
    sub.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY",
                     help=f"of {', '.join(WAYS)} (default: all)")  # fmt: skip
    sub.add_argument("--evaluations", nargs="+", default=list(EVALUATIONS), choices=EVALUATIONS,
                     help="default: all; a random model has bytes and time only")  # fmt: skip
    sub.add_argument("--rows", type=int, default=3, help="contexts (default: 3)")
    sub.add_argument("--continue", type=int, default=32, dest="further", metavar="N",
                     help="tokens that are teacher-forced after each (default: 32)")  # fmt: skip
    sub.add_argument("--keep", type=int, default=4, metavar="N", help="SnapKV keeps 1/N (default: 4)")
    sub.add_argument("--read", type=int, default=8, metavar="N", help="Quest reads 1/N (default: 8)")
    sub.add_argument("--steps", type=int, default=4, help="steps in one sample (default: 4)")


def run(
    args: argparse.Namespace,
    models: Iterable[tuple[str, Decoder]],
    report: Report,
    bar: Callable[..., Iterable[str]],
) -> str:
    """All ways on all models; the table that is printed last."""
    budget = Budget(args.tokens, args.keep, args.read)
    if budget.tokens // budget.keep <= WINDOW or budget.tokens // budget.read < PAGE:
        raise ValueError(f"{args.tokens} tokens are too few: SnapKV keeps {WINDOW} entries in any case, and "
                         f"Quest reads pages of {PAGE}.")  # fmt: skip
    ways = list(dict.fromkeys([FULL, *args.ways]))
    for name, lm in models:
        longest = lm.config.max_position_embeddings
        if longest and args.tokens + args.further > longest:
            raise ValueError(f"{name} was made for {longest:,} tokens; take fewer than {args.tokens:,}.")
        evaluations = tuple(e for e in args.evaluations if lm.tokenizer or e in ("bytes", "time"))
        taken = Run(lm, budget, args.rows, args.further, evaluations)
        if lm.device.type == "cpu" and torch.get_num_threads() == 1 and "time" in evaluations:
            report.notes.append(ONE_THREAD)
        rows = {}
        for way in bar(ways, f"together {name}"):
            about = {"model": name, "way": way, "tokens": args.tokens}
            rows[way] = report.add(**about, **taken.quality(way))
        if "time" in evaluations:
            for way, timing in taken.times(ways, args.repeats, args.steps).items():
                rows[way] |= timing
            report.save()
    return together_table(report)


def together_table(report: Report) -> str:
    """Bytes, KL, needles and the step's time against 16 bits."""
    return table([_line(row) for row in report.rows])


def _line(row: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"model": row["model"], "way": row["way"]}
    if "bytes" in row:
        line["MB held"] = row["bytes"]["stored"] / 1e6
        line["MB read"] = row["bytes"]["read"] / 1e6
    if "kl" in row:
        line["KL"] = geometric(row["kl"]).mean
    if "needles" in row:
        right = each_needle(row["needles"])
        line["needles"] = f"{sum(right)}/{len(right)}"
    if "median" in row:
        line |= {"ms": 1e3 * row["median"], "× 16 bits": row["times_full"]}
    return line
