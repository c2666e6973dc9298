"""The machinery in a notebook: run, compared twice by strict nbval, and shown where nothing runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from lesson_cells import outputs, write_lesson

ROOT = Path(__file__).resolve().parents[1]
VIEW = "application/vnd.jupyter.widget-view+json"


def run(*command: str, folder: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KVLAB_RESULTS": str(folder)}
    env.pop("KVLAB_WORK", None)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up lesson, run the way that committed lessons are."""
    path = write_lesson(tmp_path_factory.mktemp("lesson"))
    options = ["--to", "notebook", "--execute", "--inplace", "--ExecutePreprocessor.store_widget_state=False"]
    run("nbconvert", *options, path.name, folder=path.parent)
    return path


@pytest.mark.slow
def test_strict_nbval_passes_twice(executed: Path) -> None:
    config = ["-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider"]
    sanitize = ["--nbval-sanitize-with", str(ROOT / "tests" / "sanitize.cfg")]
    for _ in range(2):
        said = run("pytest", *config, "--nbval", *sanitize, executed.name, folder=executed.parent)
        assert re.search(r"\b18 passed", said), said


def test_outputs_are_pictures_and_texts_that_need_no_kernel(executed: Path) -> None:
    notebook = nbformat.read(executed, as_version=4)
    assert "widgets" not in notebook.metadata
    for widget in ("lesson.live(line, height)", "table = lesson.live"):
        assert set(outputs(notebook, widget)) == {VIEW, "image/png", "text/plain"}
    for text in ("lesson.quiz", "lesson.judge(", "03.broken", "slow = Button"):
        assert set(outputs(notebook, text)) == {VIEW, "text/html", "text/plain"}
    assert set(outputs(notebook, "layer 26")) == {"image/png", "text/plain"}
    for cell in notebook.cells:
        for output in cell.outputs:
            assert output.output_type == "execute_result", "nothing is printed"
            assert "\n" not in output.data["text/plain"] or "lesson.so" in cell.source


def test_checks_speak_in_one_line(executed: Path) -> None:
    notebook = nbformat.read(executed, as_version=4)
    texts = {part: outputs(notebook, f'"90.1", {part}')["text/plain"] for part in ("double", "lambda x: x *")}
    assert texts["double"].startswith("… 90.1: not yet: write `double`")
    assert texts["lambda x: x *"] == "✗ 90.1: You squared it."
    quoted = outputs(notebook, "undefined")["text/plain"]
    assert "line 1, `lesson.check(" in quoted and "stopped with AttributeError" in quoted


def test_nbconvert_shows_the_pictures(executed: Path) -> None:
    run("nbconvert", "--to", "html", "--output", "page.html", executed.name, folder=executed.parent)
    page = (executed.parent / "page.html").read_text(encoding="utf-8")
    body = page[page.index("<body") :]
    assert body.count("data:image/png;base64,") == 3
    assert "Which?" in body and "Predict." in body and "You squared it." in body
    assert "Yes, this." in body, "the quiz's source is in the page"
    assert "Error displaying widget" not in body and "application/vnd.jupyter.widget-view" not in body
