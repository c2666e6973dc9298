"""Lesson 07: its counts against real caches, what its figures plot, and the planner, driven here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import kvlab
from kvlab.lesson import l07, l07_figures, l07_planner
from kvlab.lesson.exercise import exercise
from kvlab.lesson.recorded import NotMeasured, Recorded, recorded
from kvlab.lesson.style import BLUE, GREEN, PLUM, RUST
from kvlab.measure import cache_bytes, decode_bytes, decode_flops
from kvlab.measure.memory import MORE, PROMPT
from kvlab.measure.report import read_report
from kvlab.model import Decoder
from kvlab.zoo import SHAPES

GB = 10**9


pytestmark = pytest.mark.usefixtures("no_gradients")


# --- bytes ----------------------------------------------------------------------------------------------


def test_stored_reads_one_cache_off_as_it_grows(tiny: Decoder) -> None:
    assert l07.stored(tiny, [3, 5, 20], batch=2) == [cache_bytes(tiny.config, n, 4, 2) for n in (3, 5, 20)]


def test_a_cache_filled_without_weights_holds_the_same_bytes(tiny: Decoder) -> None:
    real = kvlab.Cache(tiny, codec=kvlab.Int8())
    tiny(torch.zeros(1, 9, dtype=torch.int64), real)
    assert l07.filled(tiny.config, 9, codec=kvlab.Int8()).nbytes == real.nbytes
    assert l07.filled(tiny.config, 9, torch.bfloat16).nbytes == cache_bytes(tiny.config, 9, 2)


def test_gemma3_with_windows_holds_what_the_table_says() -> None:
    """Its byte table, float32: 21,989,376 with windows at 1,024 tokens, 37,748,736 without."""
    shape = SHAPES["gemma3-270m"]
    assert l07.filled(shape, 1024, store="hybrid").nbytes == 21_989_376
    assert l07.filled(shape, 1024).nbytes == 37_748_736


@pytest.mark.parametrize(
    ("name", "bits", "tokens"), [("smollm2-135m", 32, 11_677), ("llama2-7b", 16, 25_706)]
)
def test_even_is_the_first_token_that_tips_the_scales(name: str, bits: int, tokens: int) -> None:
    assert l07.even(name, bits, bits) == tokens
    weights, token = (f(SHAPES[name], bits // 8) for f in (_weights, _token))
    assert (tokens - 1) * token <= weights < tokens * token


def _weights(config: Any, size: int) -> int:
    return kvlab.plan(config, 1, weight_bits=8 * size).weight_bytes


def _token(config: Any, size: int) -> int:
    return cache_bytes(config, 1, size)


def test_the_variants_differ_in_what_is_cached_only() -> None:
    found = l07.variants()
    costs = {one.attention: 2 * one.numbers for one in found.values()}
    assert costs == {"MHA": 524_288, "GQA": 131_072, "MLA": 32 * 576 * 2, "MQA": 16_384}
    assert costs["MLA"] / costs["MQA"] == 2.25


# --- recorded runs --------------------------------------------------------------------------------------


def record(folder: Path, name: str, rows: list[dict[str, Any]], **parameters: Any) -> Recorded:
    data = {
        "schema": 1, "bench": "x", "device": "a processor", "machine": {}, "date": "2026-01-01T00:00:00",
        "versions": {"torch": "2.13"}, "commit": "abc", "command": "python -m kvlab bench x",
        "parameters": parameters, "rows": rows,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return Recorded(name, read_report(folder / f"{name}.json"))


def memory_rows() -> list[dict[str, Any]]:
    return [
        {
            "store": store, "moment": moment, "tokens": tokens, "batch": 1,
            "allocated_bytes": 1000 * tokens * (2 if (store, moment) == ("dynamic", MORE) else 1),
            "resident_cache_bytes": 1000 * tokens + (500 if moment == MORE else 200),
        }
        for store in ("dynamic", "static")
        for moment in (PROMPT, MORE)
        for tokens in (64, 16)
    ]  # fmt: skip


CEILINGS = {"copy": 40e9, "read": 50e9, "matmul": 200e9}


def decode_rows() -> list[dict[str, Any]]:
    return [
        {"path": path, "context": 128, "batch": b, "flops": f, "needed_bytes": 500_000_000, "median": s * b}
        for path, f, s in (("naive", 25_000_000_000, 0.2), ("dynamic", 250_000_000, 0.02))
        for b in (1, 4)
    ]


def test_without_a_run_nothing_is_drawn() -> None:
    missing = NotMeasured("x", "not yet")
    assert l07.step_points(missing) == []
    assert l07_figures.roofline(missing, []) is missing


def test_points_of_a_record(tmp_path: Path) -> None:
    run = record(tmp_path, "decode", decode_rows(), ceilings=CEILINGS)
    naive, cached = l07.step_points(run)  # batch 1 only
    assert (naive.label, cached.label) == ("naive, 128", "cached, 128")
    assert (cached.intensity, cached.rate) == (0.5, 12.5e9) and naive.intensity == 50
    assert l07.ceilings_of(run) == (50e9, 200e9)
    assert l07.batch_points(run) == [(1, 0.02), (4, 0.08)]
    memory = record(tmp_path, "memory", memory_rows())
    assert l07.resident(memory, "static", PROMPT) == [(16, 16_200.0), (64, 64_200.0)]


def test_the_committed_memory_run_agrees_with_the_plan() -> None:
    run = recorded("memory-cpu")
    assert isinstance(run, Recorded) and run.rows and not run.report.errors
    assert "dirty" not in run.report.commit
    for row in run.rows:
        assert row["stored_bytes"] == row["planned_stored_bytes"]
        assert row["allocated_bytes"] == row["planned_allocated_bytes"]
        assert row["stored_bytes"] == 46_080 * (row["tokens"] + 1) * row["batch"] or row["moment"] != MORE
    extra = [y - 46_080 * n for store in ("dynamic", "static") for n, y in l07.resident(run, store, PROMPT)]
    assert 5e6 < min(extra) and max(extra) < 12e6, "a few MB beside what is stored, as the lesson says"


def test_a_live_step_counts_what_it_does(tiny: Decoder) -> None:
    found = l07.live_step(tiny, 12, batch=2, repeats=2)
    assert found.flops == decode_flops(tiny.config, 13, 2).total
    assert found.moved == decode_bytes(tiny.config, 13, 4, 2).total
    assert 0 < found.seconds < 5


def test_a_batch_shares_weights_and_not_the_cache() -> None:
    config = SHAPES["llama2-7b"]
    alone, shared = (l07.read_per_token(config, 4096, batch, 2) for batch in (1, 16))
    assert alone[1] == shared[1] == 4096 * 524_288
    assert alone[0] / shared[0] == pytest.approx(16, rel=1e-3)
    assert round(sum(alone) / sum(shared), 1) == 5.2


# --- figures --------------------------------------------------------------------------------------------


def ys(ax: Any) -> list[list[float]]:
    return [list(map(float, line.get_ydata())) for line in ax.lines]


def test_four_curves_plot_dots_and_plan() -> None:
    panels = {"tokens": ([(1, 1e6), (2, 2e6)], [(0, 0), (2, 2e6)]), "bits": ([(8, 3e6)], [(0, 0), (8, 3e6)])}
    figure = l07_figures.four_curves(panels)
    assert ys(figure.axes[0]) == [[0, 2], [1, 2]] and ys(figure.axes[1]) == [[0, 3], [3]]
    assert [ax.get_xlabel() for ax in figure.axes] == list(panels)


def test_in_memory_plots_stored_allocated_and_resident(tmp_path: Path) -> None:
    figure = l07_figures.in_memory(record(tmp_path, "memory", memory_rows()), 1000)
    dynamic, static = (ys(ax) for ax in figure.axes)
    assert dynamic[:2] == [[0.016, 0.064], [0.032, 0.128]] and static[:2] == [[0.016, 0.064]] * 2
    assert dynamic[2:4] == [[0.0165, 0.0645], [0.0162, 0.0642]]


def test_token_bars_are_kilobytes_in_the_colour_of_the_attention() -> None:
    (ax,) = l07_figures.token_bars(l07.variants()).axes
    assert [bar.get_width() for bar in ax.patches] == [524.288, 131.072, 36.864, 16.384]
    colours = [_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colours == [RUST, BLUE, PLUM, GREEN]


def _hex(colour: Any) -> str:
    from matplotlib.colors import to_hex

    return to_hex(colour).upper()


def test_the_roofline_has_its_ridge_and_its_points(tmp_path: Path) -> None:
    run = record(tmp_path, "decode", decode_rows(), ceilings=CEILINGS)
    points = l07.step_points(run)
    (ax,) = l07_figures.roofline(run, points, l07.StepPoint("here", 10**9, 10**9, 0.1)).axes
    roof, ridge, naive, cached, live = ax.lines
    assert max(roof.get_ydata()) == 200 and ridge.get_xdata()[0] == 4
    assert roof.get_ydata()[0] == pytest.approx(50 * roof.get_xdata()[0])
    drawn = [(float(p.get_xdata()[0]), float(p.get_ydata()[0])) for p in (naive, cached, live)]
    assert drawn == [(50, 125), (0.5, 12.5), (1, 10)]


def test_bytes_for_each_token_are_stacked() -> None:
    figure = l07_figures.per_token(SHAPES["llama2-7b"], [512, 4096], [1, 4], 2)
    for ax, context in zip(figure.axes, (512, 4096), strict=True):
        cache, weights = ([bar.get_height() for bar in ax.patches[i : i + 2]] for i in (0, 2))
        assert cache == [context * 524_288 / 1e9] * 2
        assert weights[0] / weights[1] == pytest.approx(4, rel=1e-3)


def test_what_the_lesson_says_of_steps_for_many_sequences() -> None:
    run = recorded("decode-cpu-batch")
    assert isinstance(run, Recorded) and not run.report.commit.endswith("dirty")
    one, *_, many = sorted(run.select(path="dynamic"), key=lambda row: row["batch"])
    assert many["batch"] == 16 and many["flops"] == 16 * one["flops"]
    assert round(many["tokens_per_second"] / one["tokens_per_second"]) == 3
    assert round(many["median"] / one["median"]) == 5
    assert round(many["needed_bytes"] / one["needed_bytes"], 1) == 1.6
    best = run.report.parameters["ceilings"]["matmul"]
    assert 0.2 < many["flops"] / many["median"] / best < 0.3


def test_batch_times_plot_tokens_a_second(tmp_path: Path) -> None:
    (ax,) = l07_figures.batch_times(record(tmp_path, "decode", decode_rows())).axes
    proportional, measured = ys(ax)
    assert proportional == [50, 200] and measured == [50, 50]


def test_what_the_lesson_says_of_its_roofline() -> None:
    run = recorded("decode-cpu-paths")
    assert isinstance(run, Recorded)
    read, matmul = l07.ceilings_of(run)
    for p in l07.step_points(run):
        arithmetic, roof = p.rate / matmul, max(p.moved / read, p.flops / matmul) / p.seconds
        if p.label.startswith("naive"):
            assert p.intensity > matmul / read and roof > 0.7
        else:
            assert p.intensity < matmul / read and arithmetic < 0.1 and 0.295 < roof < 0.455, p.label
    earlier = recorded("decode-cpu")
    assert isinstance(earlier, Recorded) and round(l07.ceilings_of(earlier)[0] / GB) == 51


# --- the planner ----------------------------------------------------------------------------------------


def test_the_planner_says_what_the_plan_says() -> None:
    widget = l07_planner.planner()
    shown = widget.view.html
    planned = kvlab.plan("llama2-7b", 4096, 8)
    too_much = (planned.total_bytes - 24 * GB) / GB
    assert f"<b>{too_much:,.2f} GB too much</b>" in shown.value and RUST in shown.value
    assert f"{planned.sequences_that_fit(24 * GB)} sequences of 4,096 tokens" in shown.value
    widget.controls["bits"].value = 8 + 16 / 128
    assert "<b>Fits</b>" in shown.value
    widget.controls["tokens"].value = 8192
    assert "llama2-7b was made for 4,096 tokens" in shown.value and "too much" in shown.value


def test_every_control_of_the_planner_matters() -> None:
    widget = l07_planner.planner(l07_planner.Choice(model="gemma3-27b", tokens=8192, device=80 * GB))
    for name, value in (
        ("model", "gemma3-270m"), ("tokens", 65536), ("batch", 32), ("bits", 4.5), ("weight_bits", 8.0),
        ("store", "hybrid"), ("device", 8 * GB),
    ):  # fmt: skip
        before = widget.view.html.value
        widget.controls[name].value = value
        assert widget.view.html.value != before and "failed" not in widget.view.html.value, name
    assert widget.choice == l07_planner.Choice("gemma3-270m", 65536, 32, 4.5, 8.0, "hybrid", 8 * GB)


@pytest.mark.parametrize("model", l07_planner.MODELS)
def test_every_model_of_the_planner_can_be_shown(model: str) -> None:
    for store in l07_planner.STORES.values():
        text = l07_planner.shown(l07_planner.Choice(model=model, store=store))
        fits = kvlab.plan(model, 1).weight_bytes <= 24 * GB
        assert ("The device holds" if fits else "does not even hold the weights") in text and "bytes." in text


def test_the_planner_has_a_picture_of_its_start() -> None:
    data, _ = l07_planner.planner()._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Planner")
    choices = {"a": l07_planner.Choice(), "b": l07_planner.Choice(model="llama3-8b")}
    (ax,) = l07_planner.planner_figure(choices).axes
    widths = [bar.get_width() for bar in ax.patches]
    parts = [l07_planner.parts(choice) for choice in choices.values()]
    assert widths == pytest.approx([part[name] for part in parts for name in ("weights", "cache")])
    assert parts[0]["left"] < 0 < parts[1]["left"]


# --- exercises ------------------------------------------------------------------------------------------


def test_the_solutions_agree_with_the_plan() -> None:
    formula, users = exercise("07.1").reference, exercise("07.2").reference
    for name in ("smollm2-135m", "llama3-8b", "gemma-2b"):
        assert formula(SHAPES[name], 300, 4, 16) == kvlab.plan(name, 300, 4).cache_bytes
    planned = kvlab.plan("gemma3-27b", 8192, store="hybrid")
    layers = [(layer.numbers * 2, layer.window) for layer in planned.model.layers]
    room = int(0.9 * 80 * GB)
    assert users(80 * GB, planned.weight_bytes, 0.1, 8192, layers) == planned.sequences_that_fit(room)
