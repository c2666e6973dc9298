"""Lesson 09: operations and compilations counted, what the record says, and the buckets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.lesson import l09, l09_buckets, l09_figures
from kvlab.lesson.exercise import solution_module
from kvlab.lesson.recorded import NotMeasured, Recorded, recorded
from kvlab.measure.report import read_report
from kvlab.model import Decoder

pytestmark = pytest.mark.usefixtures("no_gradients")


# --- operations and compilations ------------------------------------------------------------------------


def test_operations_are_noted_with_their_shapes() -> None:
    with l09.Watch() as seen:
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert seen.calls[-1] == ("aten.mm.default", ((2, 3), (3, 4)))
    assert l09.changed([("a", ((1,),)), ("b", ((2,),))], [("a", ((1,),)), ("b", ((3,),))]) == 1


def test_steps_over_a_static_cache_look_alike_and_over_a_growing_one_do_not(tiny: Decoder) -> None:
    for store, alike in (({"store": "static", "capacity": 16}, True), ({}, False)):
        cache = kvlab.Cache(tiny, **store)
        tiny(torch.tensor([[1, 2, 3]]), cache)
        one, two = (l09.calls_of_a_step(tiny, cache) for _ in range(2))
        assert (l09.changed(one, two) == 0) is alike


def test_the_static_head_computes_what_the_growing_one_does() -> None:
    rows = torch.randn(3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keys, values = (torch.full((9, 8), 7.0, dtype=torch.float64) for _ in range(2))  # left over
    for n in range(6):
        out = solution_module("09.1").step(*rows[:, n], keys, values, torch.tensor([n]))
        wanted = l09.attend(rows[0, n], rows[1, : n + 1], rows[2, : n + 1])
        assert (out - wanted).abs().max() < 1e-12


def test_compilations_are_counted() -> None:
    counts = l09.compilations(12)
    assert counts["growing, fixed sizes"] == [*range(1, 9), 8, 8, 8, 8]
    assert counts["growing, sizes may vary"] == [1] + [2] * 11
    assert counts["static"] == [1] * 12


def test_the_whole_step_is_compiled_once_for_each_shape(tiny: Decoder) -> None:
    step = l09.whole_step(tiny)
    cache, plain = kvlab.Cache(tiny, store="static", capacity=12), kvlab.Cache(tiny)
    for token in (5, 6, 7):
        gap = l09.take(step, cache, token) - tiny(torch.tensor([[token]]), plain)
        assert gap.abs().max() < 1e-4
    cache.reset()
    l09.take(step, cache, 1)
    l09.take(step, kvlab.Cache(tiny, store="static", capacity=12), 1)
    assert step.count == 1
    l09.take(step, kvlab.Cache(tiny, store="static", capacity=13), 1)
    assert step.count == 2


# --- recorded runs --------------------------------------------------------------------------------------


def record(folder: Path) -> Recorded:
    medians = {"dynamic": 0.02, "static": 0.02, "compiled": 0.01, "hf-dynamic": 0.04}
    rows = [
        {
            "path": path, "context": 128, "batch": 1, "median": s, "first_step_seconds": 15.0,
            "bound_seconds": 0.005,
        }
        for path, s in medians.items()
    ]  # fmt: skip
    data = {
        "schema": 1, "bench": "decode", "device": "a processor", "machine": {}, "date": "2026-01-01T00:00:00",
        "versions": {"torch": "2.13"}, "commit": "abc", "command": "x", "parameters": {}, "rows": rows,
    }  # fmt: skip
    (folder / "d.json").write_text(json.dumps(data), encoding="utf-8")
    return Recorded("d", read_report(folder / "d.json"))


def test_gain_and_payback_come_from_the_record(tmp_path: Path) -> None:
    run = record(tmp_path)
    assert l09.gain(run, 128) == 2 and l09.first_step(run, 128) == 15
    assert l09.tokens_to_pay_back(run, 128) == 1500
    (ax,) = l09_figures.times_figure(run, 128).axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([20, 20, 10, 40])
    missing = NotMeasured("x", "not yet")
    assert l09_figures.times_figure(missing, 128) is missing


def test_what_the_lesson_says_of_its_record() -> None:
    run = recorded("decode-cpu-paths")
    times = {path: round(1e3 * s, 1) for path, s in l09.step_times(run, 128).items()}
    assert (times["dynamic"], times["static"], times["compiled"]) == (18.8, 18.6, 15.2)
    assert round(l09.gain(run, 128), 1) == 1.2 and round(l09.first_step(run, 128)) == 17
    assert round(l09.tokens_to_pay_back(run, 128), -3) == 5000


def test_what_the_lesson_says_of_512_tokens() -> None:
    times = {path: f"{1e3 * s:.1f}" for path, s in l09.step_times(recorded("decode-cpu-512"), 512).items()}
    notebook = Path(__file__).parents[1] / "notebooks" / "09_fixed_shapes.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = " ".join(" ".join("".join(cell["source"]).split()) for cell in cells)
    said = "{dynamic} ms growing, {static} static, {compiled} compiled, and {hf-dynamic} for transformers'"
    assert said.format(**times) in text


# --- figures and the widget -----------------------------------------------------------------------------


def test_figures_plot_what_they_are_given() -> None:
    (ax,) = l09_figures.compilations_figure({"a": [1, 2, 3], "b": [1, 1, 1]}).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 2, 3], [1, 1, 1]]
    (ax,) = l09_figures.read_figure([32, 64], [2_000_000, 4_000_000], 1_000_000, 21).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2, 4], [1, 1]]


def test_the_rules_give_every_text_room() -> None:
    exact, multiples, doubled, one = l09_buckets.RULES
    given = {
        rule: [l09_buckets.capacity(rule, n, 64, 300) for n in (64, 65, 300)] for rule in l09_buckets.RULES
    }
    assert given == {exact: [64, 65, 300], multiples: [64, 128, 320], doubled: [64, 128, 512], one: [300] * 3}
    assert l09_buckets.outcome(doubled, [64, 60, 100], 64) == l09_buckets.Outcome(2, 1 - 224 / 256)
    needed = l09_buckets.requests()
    assert needed == l09_buckets.requests() and 16 <= min(needed) and max(needed) <= 2048


def test_the_buckets_move_and_have_a_picture() -> None:
    widget = l09_buckets.buckets([64, 60, 100], seconds=10, step=64)
    html = widget.view.html
    assert "<strong>2</strong> shapes" in html.value and "20 s" in html.value
    widget.step.value = 32
    assert "the step, doubled as needed (32)" in html.value
    widget.rule.value = l09_buckets.RULES[3]
    assert "one size for all: <strong>1</strong> shape," in html.value
    data, _ = widget._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Buckets")
    axes = l09_buckets.buckets_figure([64, 60, 100], 64).axes
    assert [bar.get_width() for bar in axes[0].patches] == [3, 2, 2, 1]
