"""A method of the recorded quality run in a line, and measured again on the first of its texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kvlab.measure.methods import METHODS
from kvlab.measure.quality import Settings, quality
from kvlab.measure.quality_runs import Factory

from .chart_points import SMOL, Point, row, settings
from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def again(lm: Decoder, run: Recorded, method: str) -> float:
    """The KL of a recorded method on the first of its texts, measured here."""
    s = row(run, method, SMOL)["source"]["settings"]
    return kl_of_first_text(lm, {"": METHODS[method].factory(lm)}, s["tokens"], s["further"])[""]


def kl_of_first_text(
    lm: Decoder, caches: Mapping[str, Factory], tokens: int = 512, further: int = 64
) -> dict[str, float]:
    """KL on the first text of the recorded run, token by token, of caches that are made for a task.

    The first text is the same for any number of texts.
    """
    settings = Settings(offsets=1, tokens=tokens, further=further, evaluations=("kl",))
    found = quality(lm, caches, settings, progress=False)
    return {name: float(result["kl"][0]) for name, result in found.items()}


def line(p: Point) -> str:
    """What a method loses and costs: KL with its interval, needles, tokens copied where measured, bytes."""
    k = p.interval
    copied = "" if math.isnan(p.copied) else f", copied {p.copied:.2f}"
    return (
        f"{p.method:>23}: KL {k.mean:.3f} ({k.low:.3f} … {k.high:.3f}), needles {p.right:>2}/{p.asked}"
        f"{copied}, read {p.read:.0%}, stored {p.stored:,.0f} B a token"
    )


def came_from(run: Recorded, method: str) -> str:
    """Where one row comes from, and what was measured: rows of one file may come from several days."""
    found = row(run, method, SMOL)
    source = found["source"]
    return (
        f"Recorded on {source['device']}, {source['date'][:10]},\n"
        f"torch {source['versions']['torch']}, commit {source['commit'][:10]}:\n{settings(run, method)}."
    ) + "".join(
        f"\n({what.capitalize()}: {later['date'][:10]}, commit {later['commit'][:10]}.)"
        for what, later in found.get("sources", {}).items()
    )
