"""The lesson machinery in a real JupyterLab: pictures where nothing runs, then widgets that answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_page import ROOT, LessonPage
from lesson_cells import CELLS, write_lesson

pytestmark = pytest.mark.alone


def cell(part: str) -> int:
    """The index of the cell whose source contains a text."""
    (index,) = (i for i, source in enumerate(CELLS) if part in source)
    return index


@pytest.fixture(scope="module")
def machinery(jupyter_folder: Path) -> str:
    """The made-up lesson, executed as committed lessons are, in the server's folder."""
    path = write_lesson(jupyter_folder)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    command += ["--ExecutePreprocessor.store_widget_state=False", path.name]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KVLAB_RESULTS": str(jupyter_folder)}
    subprocess.run(command, cwd=jupyter_folder, env=env, check=True, capture_output=True, timeout=300)
    return path.name


def test_pictures_in_an_untrusted_copy_and_live_widgets_once_run(
    machinery: str, open_lesson: Callable[[str], LessonPage]
) -> None:
    lesson = open_lesson(machinery)
    line, table = cell("lesson.live(line"), cell("table = lesson.live")
    for index in (line, table):
        assert lesson.cell(index).locator('img[src^="data:image/png"]').is_visible()
    assert lesson.page.locator(".jupyter-widgets").count() == 0

    lesson.run([i for i, source in enumerate(CELLS) if "lesson.recorded" not in source])
    assert lesson.cell(table).locator("img").count() == 0, "the picture gave way to the widget"
    lesson.drive(line, "slider:height")
    lesson.drive(table, "slider:power")
    assert lesson.cell(line).get_by_alt_text("a line at 3").is_visible()
    lesson.drive(cell("slow = Button"), "button:slow")
    assert lesson.page.get_by_text("Click to show javascript error").count() == 0

    guess, reveal = cell('lesson.predict("03.speed"'), cell("lesson.reveal")
    lock = lesson.cell(guess).get_by_role("button", name="Lock in")
    lock.click()
    lesson.cell(guess).get_by_text("Move the slider first").wait_for()
    lesson.cell(guess).locator(".noUi-handle").press("End")
    lock.click()
    lesson.cell(guess).get_by_text("Locked in").wait_for()
    lesson.run([reveal])
    lesson.cell(reveal).get_by_text("You predicted 2,000×; measured 27×").wait_for()

    quiz = lesson.cell(cell("lesson.quiz"))
    quiz.get_by_label("this", exact=True).check()
    quiz.get_by_text("Yes, this.").last.wait_for()
    judge = lesson.cell(cell("lesson.judge("))
    judge.get_by_role("button", name="depends").nth(1).click()
    judge.get_by_text("1 of 2 judged").wait_for()
