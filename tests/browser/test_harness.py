"""The browser harness on a made-up notebook: it sees what widgets do, and that a dead one does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab_page import ROOT, LessonPage, find_browser
from test_lessons import cells_to_run, drive_widgets

pytestmark = pytest.mark.alone

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="

SETUP = """
import io, matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
import ipywidgets as w
def png(x):
    figure, ax = plt.subplots(figsize=(2, 2)); ax.plot([0, x]); ax.set_ylim(0, 10)
    buffer = io.BytesIO(); figure.savefig(buffer, format="png"); plt.close(figure)
    return buffer.getvalue()
def widget(control, shown, draw, event="value"):
    if event == "click": control.on_click(lambda _: draw(shown, None))
    else: control.observe(lambda change: draw(shown, change.new), "value")
    return w.VBox([control, shown])
def picture(shown, x): shown.value = png(x)
def text(shown, x): shown.value = f"<b>now {x}</b>"
def nothing(shown, x): pass
image, html = w.Image(value=png(0)), w.HTML("<b>before</b>")
"""

WIDGETS = {
    "slider": "widget(w.IntSlider(description='layer', max=9), image, picture)",
    "slider:layer": "widget(w.HBox([w.IntSlider(description='head'), w.IntSlider(description='layer')])"
    ".children[1], html, text)",
    "button:sink": "widget(w.Button(description='sink'), html, text, 'click')",
    "dropdown": "widget(w.Dropdown(options=['a', 'b']), html, text)",
    "checkbox:cat": "widget(w.Checkbox(description='cat'), html, text)",
    "slider at its end": "widget(w.FloatSlider(value=10, max=10), html, text)",
    "dead": "widget(w.IntSlider(), w.HTML('<b>before</b>'), nothing)",
}


def step(name: str) -> str:
    return {"slider at its end": "slider", "dead": "slider"}.get(name, name)


@pytest.fixture(scope="module")
def made_up(jupyter_folder: Path) -> str:
    """A notebook with one widget a cell, each with a stored picture, and a cell that must not be run."""
    cells = [nbformat.v4.new_markdown_cell("# Made up")]
    cells.append(nbformat.v4.new_code_cell(SETUP, metadata={"tags": ["setup"]}))
    cells.append(nbformat.v4.new_code_cell("raise SystemError('this cell is not needed by any widget')"))
    for name, code in WIDGETS.items():
        data = {"text/plain": "[widget]", "image/png": PIXEL}
        data["application/vnd.jupyter.widget-view+json"] = {
            "model_id": "gone",
            "version_major": 2,
            "version_minor": 0,
        }
        output = nbformat.v4.new_output("execute_result", data, execution_count=1)
        cells.append(
            nbformat.v4.new_code_cell(code, outputs=[output], metadata={"kvlab": {"drive": step(name)}})
        )
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), jupyter_folder / "made-up.ipynb")
    return "made-up.ipynb"


@pytest.fixture
def cells(made_up: str, jupyter_folder: Path) -> list[dict[str, Any]]:
    return nbformat.read(jupyter_folder / made_up, as_version=4)["cells"]


def test_every_kind_of_control_is_driven_and_a_dead_one_is_found(
    made_up: str, cells: list[dict[str, Any]], open_lesson: Callable[[str], LessonPage]
) -> None:
    lesson = open_lesson(made_up)
    assert drive_widgets(lesson, cells[:-1]) == len(WIDGETS) - 1
    lesson.run([len(cells) - 1])
    with pytest.raises(AssertionError, match="moved and nothing changed"):
        lesson.drive(len(cells) - 1, "slider", timeout=2)


def test_an_untrusted_copy_shows_the_stored_picture_and_no_widget(
    made_up: str, cells: list[dict[str, Any]], open_lesson: Callable[[str], LessonPage]
) -> None:
    lesson = open_lesson(made_up)
    for index in range(3, len(cells)):
        assert lesson.cell(index).locator('img[src^="data:image/png"]').is_visible()
        assert lesson.cell(index).locator(".jupyter-widgets").count() == 0
    assert "Jupyter news" not in lesson.page.inner_text("body"), "JupyterLab asks a learner about news"


def test_an_error_in_a_cell_fails_the_test(made_up: str, open_lesson: Callable[[str], LessonPage]) -> None:
    lesson = open_lesson(made_up)
    with pytest.raises(AssertionError, match="SystemError"):
        lesson.run([2])
    lesson.run([2], allowed_to_fail=[2])


def test_only_what_a_widget_needs_is_run() -> None:
    def cell(*tags: str, kind: str = "code") -> dict[str, Any]:
        return {"cell_type": kind, "metadata": {"tags": list(tags)}}

    plain = [cell(kind="markdown"), cell(), cell(), cell("drive")]
    assert cells_to_run(plain, 3) == [1, 2, 3]
    tagged = [cell("setup"), cell(), cell("setup", "nbval-ignore-output"), cell(), cell("setup")]
    assert cells_to_run(tagged, 3) == [0, 2, 3]


@pytest.mark.parametrize(("ci", "code", "word"), [("", 0, "skipped"), ("true", 1, "error")])
def test_without_a_browser_it_is_said_loudly_and_fails_in_ci(
    ci: str, code: int, word: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "alone"]
    command += [f"{Path(__file__).name}::test_an_error_in_a_cell_fails_the_test"]
    env = {"PATH": str(tmp_path), "CI": ci, "HOME": str(tmp_path)}
    run = subprocess.run(
        command, cwd=Path(__file__).parent, env=env, capture_output=True, text=True, timeout=120
    )
    assert "BROWSER TESTS DID NOT RUN" in run.stdout and "apt-get install chromium" in run.stdout
    assert run.returncode == code and f"1 {word}" in run.stdout


def test_a_browser_is_found_where_this_runs() -> None:
    assert find_browser() is not None, "the tests above were skipped"
    assert (ROOT / "pyproject.toml").exists()
