"""Lesson 12: what the recorded bench says of the quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvlab.measure.quality_stats import Interval, each_needle, geometric, t_interval, times, wilson

from .recorded import Recorded


def row(run: Recorded, method: str, model: str = "smollm2-135m") -> dict[str, Any]:
    """The recorded row of a method. ValueError if there is none."""
    return run.select(method=method, model=model)[0]


def kl(run: Recorded, method: str, model: str = "smollm2-135m") -> Interval:
    """Geometric mean of the KL over the texts, and its 95 % interval."""
    return geometric(row(run, method, model)["kl"])


def more(run: Recorded, worse: str, better: str, model: str = "smollm2-135m") -> Interval:
    """How many times the KL of `better` that of `worse` is, text by text."""
    return times(row(run, worse, model)["kl"], row(run, better, model)["kl"])


def needles(run: Recorded, method: str) -> Interval:
    """The share of needles found, of all lengths and kinds, and its 95 % interval."""
    found = needle_hits(run, method)
    return wilson(sum(found), len(found))


def needle_hits(run: Recorded, method: str) -> list[int]:
    """1 or 0 for each needle."""
    return each_needle(row(run, method)["needles"])


def agreement(run: Recorded, method: str) -> float:
    """The share of steps whose likeliest token is that of the full cache."""
    return t_interval(row(run, method)["agree"]).mean


def summary(run: Recorded, methods: Sequence[str]) -> str:
    """A line for each method: bits, KL with interval, needles, agreement."""
    lines = []
    for name in methods:
        far, right = "KL 0: exact", needle_hits(run, name)
        if not row(run, name).get("exact"):
            k = kl(run, name)
            far = f"KL {k.mean:.4f} ({k.low:.4f} … {k.high:.4f})"
        found = f"needles {sum(right):>2}/{len(right)}"
        lines.append(f"{name:>14}: {far:<28}, {found}, same next token {agreement(run, name):.0%}")
    return "\n".join(lines)


def settings(run: Recorded, method: str) -> str:
    """What was measured, in a sentence."""
    s = run.select(method=method)[0]["source"]["settings"]
    kinds = run.select(method=method)[0]["needles"].values()
    found = sum(len(one) for kind in kinds for one in kind.values())
    return (
        f"{s['offsets']} texts of {s['tokens']:,} tokens and {s['further']} further ones; "
        f"{found} needles in {', '.join(str(n) for n in s['needle_tokens'])} tokens"
    )
