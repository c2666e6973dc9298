"""What a recorded quality run says of each method: one reading of its rows for all lessons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvlab.measure.quality_stats import Interval, each_needle, geometric, t_interval, times, wilson

from .recorded import Recorded

SMOL, GEMMA = "smollm2-135m", "gemma3-270m"
SPLIT = {
    "merge": "merging",
    "random": "random",
    "oracle": "oracle",
    "topk": "oracle",
}  # by a name's beginning


@dataclass(frozen=True)
class Point:
    """One method on one model, as it was recorded.

    Bytes are those of a cache whose uncoded numbers take 16 bits, as in practice: the course runs in float32.
    """

    method: str
    family: str  # as the bench has it; merging, random choice and oracles are families of their own
    about: str
    kl: tuple[float, ...]  # nats a token, one a text
    right: int  # needles found with the question asked afterwards
    asked: int
    copied: float  # share of random tokens copied right, mean over the texts; NaN: not measured
    stored: float  # bytes a token of the prompt
    read: float  # bytes that a step reads, as a share of what the full cache's step reads
    exact: bool  # the KL is rounding only

    @property
    def interval(self) -> Interval:
        """Geometric mean of the KL and its 95 % interval; zeros for an exact method."""
        return Interval(0.0, 0.0, 0.0) if self.exact else geometric(self.kl)

    @property
    def found(self) -> Interval:
        """Share of the needles found, and its 95 % interval."""
        return wilson(self.right, self.asked)


def points(run: Recorded, model: str = SMOL) -> dict[str, Point]:
    """Method -> point, in the order of the run. ValueError: the model was not recorded."""
    rows = run.select(model=model)
    (full,) = run.select(model=model, method="full")
    return {r["method"]: _point(r, sixteen_bit_read(full)) for r in rows if "kl" in r and "needles" in r}


def _point(row: Mapping[str, Any], whole: float) -> Point:
    hits = each_needle(row["needles"])
    copied = [share for texts in row.get("copying", {}).values() for share in texts]
    return Point(
        method=row["method"],
        family=SPLIT.get(row["method"].partition("-")[0], row["family"]),
        about=row["about"],
        kl=tuple(row["kl"]),
        right=sum(hits),
        asked=len(hits),
        copied=statistics.fmean(copied) if copied else math.nan,
        stored=row["bytes"]["stored"] - row["bytes"]["uncoded"] / 2,
        read=sixteen_bit_read(row) / whole,
        exact=row["exact"],
    )


def sixteen_bit_read(row: Mapping[str, Any]) -> float:
    """Bytes read a step if uncoded numbers took 16 bits, from what was recorded in float32.

    Codes, scales and an index of codes are read in full at every step, and the rest is uncoded. An eviction
    reads entries only; what it keeps beside them is not read. Where a selection reads part of a coded cache,
    what is uncoded there (bounds of pages, newest entries) is read in full, and the rest is codes.
    """
    b, s = row["bytes"], row["source"]["settings"]
    length = s["tokens"] + (s["further"] + 1) / 2  # entries that a step has before it, on average
    uncoded = b["read"] - (b["stored"] - b["uncoded"]) * length
    if row["family"] == "eviction":
        uncoded = b["read"]
    elif row["family"] == "combined":
        uncoded = min(b["read"], b["uncoded"] * length)
    return float(b["read"] - max(0.0, uncoded) / 2)


def front(found: Iterable[Point], cost: str = "stored", loss: str = "kl") -> list[Point]:
    """The Pareto front, cheapest first: no other point costs as little and loses as little.

    cost: "stored" or "read". loss: "kl" (its mean) or "needles" (those not found). Means only: neighbours
    may differ by chance. Oracles cannot be had and are left out.
    """

    def place(p: Point) -> tuple[float, float]:
        return getattr(p, cost), p.interval.mean if loss == "kl" else p.asked - p.right

    best: list[Point] = []
    for p in sorted((p for p in found if p.family != "oracle"), key=place):
        if not best or place(p)[1] < place(best[-1])[1]:
            best.append(p)
    return best


# --- single rows ------------------------------------------------------------------------------------------


def row(run: Recorded, method: str, model: str = SMOL) -> dict[str, Any]:
    """The recorded row of a method. ValueError if there is none."""
    return run.select(method=method, model=model)[0]


def kl(run: Recorded, method: str, model: str = SMOL) -> Interval:
    """Geometric mean of the KL over the texts, and its 95 % interval."""
    return geometric(row(run, method, model)["kl"])


def more(run: Recorded, worse: str, better: str, model: str = SMOL) -> Interval:
    """How many times the KL of `better` that of `worse` is, text by text. Above 1: more than chance."""
    return times(row(run, worse, model)["kl"], row(run, better, model)["kl"])


def on_both(run: Recorded, pairs: Iterable[tuple[str, str]]) -> str:
    """Each pair (worse, better), and under it a line a model: the ratio of their KL, the needles of each."""
    lines = []
    for worse, better in pairs:
        lines.append(f"{worse} / {better}")
        for model in (SMOL, GEMMA):
            t = more(run, worse, better, model)
            right = [sum(needle_hits(run, name, model)) for name in (worse, better)]
            lines.append(
                f"  {model:>12}: KL {t.mean:>4.1f} times ({t.low:.1f} … {t.high:.1f}), "
                f"needles {right[0]} and {right[1]}"
            )
    return "\n".join(lines)


def needle_hits(run: Recorded, method: str, model: str = SMOL) -> list[int]:
    """1 or 0 for each needle."""
    return each_needle(row(run, method, model)["needles"])


def needles(run: Recorded, method: str, model: str = SMOL) -> Interval:
    """The share of needles found, of all lengths and kinds, and its 95 % interval."""
    found = needle_hits(run, method, model)
    return wilson(sum(found), len(found))


def agreement(run: Recorded, method: str, model: str = SMOL) -> float:
    """The share of steps whose likeliest token is that of the full cache."""
    return t_interval(row(run, method, model)["agree"]).mean


def summary(run: Recorded, methods: Sequence[str], model: str = SMOL) -> str:
    """A line for each method: KL with interval, needles, agreement."""
    lines = []
    for name in methods:
        far, right = "KL 0: exact", needle_hits(run, name, model)
        if not row(run, name, model).get("exact"):
            k = kl(run, name, model)
            far = f"KL {k.mean:.4f} ({k.low:.4f} … {k.high:.4f})"
        found = f"needles {sum(right):>2}/{len(right)}"
        lines.append(f"{name:>14}: {far:<28}, {found}, same next token {agreement(run, name, model):.0%}")
    return "\n".join(lines)


def settings(run: Recorded, method: str, model: str = SMOL) -> str:
    """What was measured, in a sentence."""
    found = row(run, method, model)
    s, hits = found["source"]["settings"], needle_hits(run, method, model)
    lengths = ", ".join(str(n) for n in s["needle_tokens"])
    copied = "".join(f"; {n} random tokens to copy" for n in found.get("copying", {}))
    return (
        f"{s['offsets']} texts of {s['tokens']:,} tokens and {s['further']} further ones; "
        f"{len(hits)} needles in {lengths} tokens{copied}"
    )
