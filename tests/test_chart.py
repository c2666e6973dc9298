"""The chart of all methods: points read from a record, bytes in 16 bits, fronts, and what is drawn."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

import kvlab
from kvlab.lesson import chart
from kvlab.lesson.chart_points import sixteen_bit_read
from kvlab.lesson.recorded import Recorded
from kvlab.measure.quality import Settings, quality
from kvlab.measure.report import Report
from kvlab.model import Decoder

SETTINGS = {"offsets": 2, "tokens": 100, "further": 9, "needle_tokens": [100]}


def row(method: str, family: str, kl: float, right: int, stored: float, uncoded: float, **other: Any) -> dict:
    hits = [1] * right + [0] * (8 - right)
    return {
        "model": "smollm2-135m", "method": method, "family": family, "about": method,
        "kl": [kl, 4 * kl], "agree": [1.0, 0.5], "exact": kl == 0, "needles": {"100": {"key": hits}},
        "copying": {"64": [0.25, 0.75]}, "source": {"settings": SETTINGS},
        "bytes": {"stored": stored, "uncoded": uncoded, "marginal": stored, "read": 105.0 * stored},
    } | other  # fmt: skip


def run_of(*rows: dict) -> Recorded:
    return Recorded("q", Report("quality", "a processor", {}, "x", rows=list(rows)))


RUN = run_of(
    row("full", "reference", 0, 7, 400, 400),
    row("oracle-25", "reference", 0.001, 8, 400, 400),
    row("good-4", "quantization", 0.01, 6, 60, 20),
    row("bad-4", "quantization", 0.02, 6, 60, 20),
    row("random-25", "eviction", 0.5, 0, 100, 100),
    row("merge-lsh-25", "eviction", 0.05, 7, 40, 40),
    row("few", "selection", 0.1, 2, 440, 400),
    row("good-4", "quantization", 0.07, 1, 60, 20, model="gemma3-270m"),
    row("full", "reference", 0, 8, 400, 400, model="gemma3-270m"),
)


def test_a_point_has_what_was_recorded_with_uncoded_numbers_in_16_bits() -> None:
    found = chart.points(RUN)
    good = found["good-4"]
    assert good.kl == (0.01, 0.04) and good.interval.mean == pytest.approx(0.02)
    assert (good.right, good.asked, good.copied, good.stored, good.exact) == (6, 8, 0.5, 50, False)
    assert good.found.low < 6 / 8 < good.found.high
    assert good.read == pytest.approx((40 * 105 + 20 * 105 / 2) / (200 * 105))
    assert found["full"].exact and found["full"].interval == (0, 0, 0) and found["full"].read == 1
    families = {name: p.family for name, p in found.items()}
    assert families["random-25"] == "random" and families["merge-lsh-25"] == "merging"
    assert families["oracle-25"] == "oracle" and families["few"] == "selection"
    assert chart.points(RUN, "gemma3-270m")["good-4"].right == 1
    without = {name: value for name, value in RUN.rows[0].items() if name != "copying"}
    assert math.isnan(chart.points(run_of(without))["full"].copied)
    with pytest.raises(ValueError, match="no row"):
        chart.points(RUN, "another")


def test_the_front_holds_what_nothing_beats_at_its_price() -> None:
    found = chart.points(RUN).values()
    assert [p.method for p in chart.front(found)] == ["merge-lsh-25", "good-4", "full"]
    assert [p.method for p in chart.front(found, loss="needles")] == ["merge-lsh-25"]
    best = chart.front(found, cost="read")
    for p in found:
        if p.family != "oracle":
            assert any(q.read <= p.read and q.interval.mean <= p.interval.mean for q in best)


def test_comparisons_go_text_by_text() -> None:
    assert chart.more(RUN, "bad-4", "good-4") == pytest.approx((2, 2, 2))
    assert chart.kl(RUN, "good-4", "gemma3-270m").mean == pytest.approx(0.14)
    assert chart.needles(RUN, "good-4").mean == 6 / 8 and sum(chart.needle_hits(RUN, "full")) == 7
    assert chart.agreement(RUN, "full") == 0.75
    assert "2 texts of 100 tokens and 9 further ones; 8 needles in 100" in chart.settings(RUN, "full")
    lines = chart.summary(RUN, ["full", "good-4"]).splitlines()
    assert "exact" in lines[0] and "KL 0.0200" in lines[1] and "6/8" in lines[1]


@pytest.mark.parametrize("cost", ["stored", "read"])
def test_the_figure_draws_every_point_and_both_fronts(cost: str) -> None:
    found = chart.points(RUN)
    figure = chart.pareto_figure(found.values(), cost, star=("good-4", 0.013))
    left, right = figure.axes[:2]
    at = {name: p.stored if cost == "stored" else 100 * p.read for name, p in found.items()}
    shown = {name: p for name, p in found.items() if not p.exact}
    for ax, value in ((left, lambda p: p.interval.mean), (right, lambda p: p.found.mean)):
        drawn = [tuple(c.get_offsets()[0]) for c in ax.collections if len(c.get_offsets())]
        wanted = sorted((at[name], value(p)) for name, p in shown.items())
        for place, want in zip(sorted(drawn), wanted, strict=True):
            assert place == pytest.approx(want)
    steps = next(line for line in left.lines if line.get_label() == "Pareto front")
    assert list(steps.get_xdata()) == [at[p.method] for p in chart.front(found.values(), cost)]
    star = next(line for line in left.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (at["good-4"], 0.013)
    assert {"merge-lsh-25", "good-4"} <= {text.get_text() for text in left.texts}
    named = chart.pareto_figure(found.values(), cost, label=["few"], families=["selection"])
    assert [text.get_text() for text in named.axes[0].texts] == ["few"]


def test_names_keep_apart() -> None:
    """Three dots nearly at one place: their names do not cover one another."""
    rows = [row(f"method-{i}", "quantization", 0.01 * (1 + i / 50), 6, 60 + i, 20) for i in range(3)]
    found = chart.points(run_of(row("full", "reference", 0, 7, 400, 400), *rows))
    ax = chart.pareto_figure(found.values(), label=[f"method-{i}" for i in range(3)]).axes[0]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


INT4 = kvlab.Quantize(4, "token", group_size=16, residual=32)
KNOBS: dict[str, tuple[str, float, dict[str, Any]]] = {  # family, error, arguments of a cache
    "codes by token": ("quantization", 0.01, {"codec": INT4}),
    "codes by channel": ("quantization", 0.05, {"codec": kvlab.KIVI(2, 16, residual=0)}),
    "fewer": ("eviction", 0.001, {"eviction": kvlab.SnapKV(100, 32)}),
    "pages": ("selection", 0.001, {"selection": kvlab.Quest(16, 4)}),
    "hashes": ("selection", 0.05, {"selection": kvlab.SimHash(32, 64)}),  # directions are not read again
    "fewer codes": ("combined", 0.05, {"codec": INT4, "eviction": kvlab.SnapKV(100, 32)}),
}


@pytest.mark.parametrize("name", list(KNOBS))
def test_what_is_read_in_16_bits_is_what_a_16_bit_cache_reads(name: str, tiny: Decoder) -> None:
    """The estimate from a float32 run against the bytes of the same cache in bfloat16."""
    family, within, knobs = KNOBS[name]
    settings = Settings(offsets=1, tokens=256, further=16, evaluations=("kl",))
    found = []
    for lm in (tiny, kvlab.load("tiny", device="cpu", dtype=torch.bfloat16)):
        make = partial(kvlab.Cache, lm, **knobs)
        (one,) = quality(lm, {name: lambda task, make=make: make()}, settings, progress=False).values()
        found.append(one)
    one, truth = found
    stored = one["bytes"]["stored"] - one["bytes"]["uncoded"] / 2
    assert stored == pytest.approx(truth["bytes"]["stored"], rel=within)
    estimate = sixteen_bit_read({**one, "family": family, "source": {"settings": vars(settings)}})
    assert estimate == pytest.approx(truth["bytes"]["read"], rel=within)
