"""A method of the recorded quality run in a line, and measured again on the first of its texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvlab.measure.methods import METHODS
from kvlab.measure.quality import Settings, quality

from .chart_points import SMOL, Point, row, settings
from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def again(lm: Decoder, run: Recorded, method: str) -> float:
    """The KL of a recorded method on the first of its texts, measured here."""
    s = row(run, method, SMOL)["source"]["settings"]
    first = Settings(offsets=1, tokens=s["tokens"], further=s["further"], evaluations=("kl",))
    found = quality(lm, {method: METHODS[method].factory(lm)}, first, progress=False)
    return float(found[method]["kl"][0])


def line(p: Point) -> str:
    """What a method loses and costs: KL with its interval, needles, tokens copied where measured, bytes."""
    k = p.interval
    copied = "" if math.isnan(p.copied) else f", copied {p.copied:.2f}"
    return (
        f"{p.method:>23}: KL {k.mean:.3f} ({k.low:.3f} … {k.high:.3f}), needles {p.right:>2}/{p.asked}"
        f"{copied}, read {p.read:.0%}, {p.stored:,.0f} B"
    )


def came_from(run: Recorded, method: str) -> str:
    """Where one row comes from, and what was measured: rows of one file may come from several days."""
    source = row(run, method, SMOL)["source"]
    return (
        f"Recorded on {source['device']}, {source['date'][:10]}, torch {source['versions']['torch']}, "
        f"commit {source['commit'][:10]}:\n{settings(run, method)}."
    )
