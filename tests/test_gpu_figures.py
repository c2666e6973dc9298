"""The lessons' GPU figures, drawn from records that `bench gpu` makes of a tiny model on the CPU."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kvlab import lesson
from kvlab.lesson import gpu_figures, l03, l03_figures, l07, l07_figures
from kvlab.lesson.recorded import NotMeasured
from kvlab.lesson.style import Drawing
from kvlab.measure import gpu
from kvlab.measure.gpu_parts import PARTS

FIGURES: dict[str, Callable] = {
    "growth": gpu_figures.growth,
    "window": gpu_figures.windows,
    "decode-smollm2": gpu_figures.steps,
    "quantized": gpu_figures.packed,
    "pages": gpu_figures.pages,
    "prefill": gpu_figures.prompts,
    "together": gpu_figures.together,
}


def plan() -> gpu.Plan:
    return dataclasses.replace(gpu.tiny_plan(), kernel_points=((32, 1),), window_points=(8, 16))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of records, as somebody with a GPU would commit them."""
    if not torch.cuda.is_available():
        pytest.importorskip("triton", reason="Triton is for Linux only")
    folder = tmp_path_factory.mktemp("results")
    with torch.no_grad():
        for part in (*FIGURES, "hold-100k", "decode-llama2-7b"):
            gpu_figures.measure(part, plan(), folder)
    return folder


@pytest.mark.parametrize("part", FIGURES)
def test_a_record_is_drawn_with_device_and_date(
    part: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLAB_RESULTS", str(results))
    run = lesson.recorded(f"gpu-{part}", gpu=True)
    figure = FIGURES[part](run)
    assert isinstance(figure, Drawing) and figure.png()
    said = figure.get_suptitle()
    assert run.report.device in said and run.report.date[:10] in said and "Stars" not in said
    drawn = [ax for ax in figure.axes if ax.lines or ax.patches]
    assert drawn and all(ax.get_xlabel() for ax in drawn)


@pytest.mark.parametrize("part", FIGURES)
def test_what_is_measured_here_is_drawn_in(part: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_RESULTS", str(results))
    run = lesson.recorded(f"gpu-{part}", gpu=True)
    both, alone = FIGURES[part](run, run), FIGURES[part](NotMeasured("x", "x"), run)
    for figure in (both, alone):
        assert "Stars: measured here" in figure.get_suptitle()
        assert any(line.get_marker() == "*" for ax in figure.axes for line in ax.lines)
    assert run.report.date[:10] in both.get_suptitle()


@pytest.mark.parametrize("part", FIGURES)
def test_without_either_it_is_said(part: str) -> None:
    missing = NotMeasured(f"gpu-{part}", "not yet")
    assert FIGURES[part](missing) is missing and FIGURES[part](missing, None) is missing


def test_the_lines_hold_the_medians(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_RESULTS", str(results))
    run = lesson.recorded("gpu-window", gpu=True)
    times = gpu_figures.windows(run).axes[1]
    found = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in times.lines}
    for store in ("dynamic", "hybrid"):
        rows = run.select(store=store)
        assert found[store] == ([r["tokens"] for r in rows], [1e3 * r["median"] for r in rows])


def test_the_other_gpu_cells_draw_the_records(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lesson 03's step times, and lesson 07's roofline."""
    monkeypatch.setenv("KVLAB_RESULTS", str(results))
    assert isinstance(l03_figures.step_times(l03.decode_run("cuda")), Drawing)
    run = lesson.recorded("gpu-decode-llama2-7b", gpu=True)
    assert isinstance(l07_figures.roofline(run, l07.step_points(run)), Drawing)
    (row,) = lesson.recorded("gpu-hold-100k", gpu=True).rows  # lesson 07 prints these
    assert {"path", "tokens", "stored_bytes", "median"} <= set(row)


def test_a_gpu_is_measured_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_figures, "device", lambda: "cpu")
    assert gpu_figures.live("growth") is None
    monkeypatch.setattr(gpu_figures, "device", lambda: "cuda")
    monkeypatch.setattr(gpu_figures, "_plan", plan)
    here = gpu_figures.live("growth")
    assert here.rows and isinstance(gpu_figures.growth(NotMeasured("x", "x"), here), Drawing)


def code_of(number: str) -> str:
    (path,) = (Path(__file__).parents[1] / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("number", ["07", "08", "09", "10", "13", "17", "18", "20"])
def test_every_lesson_asks_for_records_that_the_bench_writes(number: str) -> None:
    asked = re.findall(r'lesson\.recorded\(\s*"gpu-([^"]+)", gpu=True', code_of(number))
    assert asked and set(asked) <= set(PARTS)


@pytest.mark.parametrize("number", ["08", "09", "10", "13", "18"])
def test_some_measure_one_part_where_there_is_a_gpu(number: str) -> None:
    code = code_of(number)
    (named,) = [p for p in PARTS if f'lesson.recorded("gpu-{p}", gpu=True)' in code]
    assert f'gpu_figures.live("{named}")' in code


def test_what_is_missing_is_said_with_the_command_that_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLAB_RESULTS", str(tmp_path))
    for part in PARTS:
        said = repr(lesson.recorded(f"gpu-{part}", gpu=True))
        assert "Not yet measured on a GPU" in said and f"bench gpu --only {part} --out results" in said
    assert "--only decode-smollm2 " in repr(l03.decode_run("cuda", tmp_path))
