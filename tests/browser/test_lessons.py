"""Each lesson in a real JupyterLab: its stored picture is seen without running, and its widgets answer.

Which cells are driven, and how, stands in their metadata (CONTRIBUTING.md: "Widgets"). Only the cells that
a widget needs are run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import notebook_guard as guard
import pytest
from lab_page import ROOT, LessonPage

pytestmark = pytest.mark.alone

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells_to_run(cells: list[dict[str, Any]], driven: int) -> list[int]:
    """What a widget needs: the cells before it tagged `setup`, or all if none is tagged, and its own."""
    before = [i for i, cell in enumerate(cells[:driven]) if cell["cell_type"] == "code"]
    tagged = [i for i in before if "setup" in guard.tags(cells[i])]
    return [*(tagged or before), driven]


def stored_picture(cell: dict[str, Any]) -> str | None:
    """The kind of picture in a cell's stored outputs that a reader sees without running it."""
    kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
    return next((kind for kind in ("image/png", "text/html") if kind in kinds), None)


def drive_widgets(lesson: LessonPage, cells: list[dict[str, Any]]) -> int:
    """See every driven cell's stored picture, then run and drive it; returns how many steps were taken."""
    driven = [i for i, cell in enumerate(cells) if cell["cell_type"] == "code" and guard.drive(cell)]
    for index in driven:
        if stored_picture(cells[index]) == "image/png":
            stored = lesson.cell(index).locator('.jp-OutputArea img[src^="data:image/png"]')
            stored.first.wait_for(state="visible", timeout=20_000)
        assert lesson.cell(index).locator(".jupyter-widgets").count() == 0, "a stored widget was run"
    done: set[int] = set()
    steps = 0
    for index in driven:
        waiting = [i for i in cells_to_run(cells, index) if i not in done]
        lesson.run(waiting, [i for i in waiting if "raises-exception" in guard.tags(cells[i])])
        done.update(waiting)
        for step in guard.drive(cells[index]):
            lesson.drive(index, step)
            steps += 1
    return steps


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_a_lesson_and_its_widgets(
    path: Path, jupyter_folder: Path, open_lesson: Callable[[str], LessonPage]
) -> None:
    shutil.copy(path, jupyter_folder)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert drive_widgets(open_lesson(path.name), cells) > 0
