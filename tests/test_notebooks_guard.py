"""The guard over notebooks/, and proof that it sees each defect that it is there for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import notebook_guard as guard
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
Notebook = dict[str, Any]

HOME = "/" + "home/me"
TITLE = "# 07 A lesson\n\n> 第一行摘要\n> 第二行摘要\n> 第三行摘要\n\nText."


def test_there_are_lessons() -> None:
    assert [path.name[:2] for path in NOTEBOOKS][:1] == ["00"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_lesson_is_as_it_must_be(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    found = guard.problems(path)
    assert not found, f"{path.name}:\n" + "\n".join(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_lesson_ends_with_a_link_to_the_next_and_its_links_lead_somewhere(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = [guard.source(cell) for cell in cells if cell["cell_type"] == "markdown"]
    for target in re.findall(r"\]\(([\w.]+\.ipynb)\)", "\n".join(prose)):
        assert (path.parent / target).is_file(), target
    later = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
    _, said, following = prose[-1].rpartition("Next: ")
    assert not later or (said and f"]({later[0].name})" in following)


# The guard itself


def good() -> Notebook:
    """A lesson that has nothing wrong with it."""
    cells = [nbformat.v4.new_markdown_cell(TITLE)]
    cells += [nbformat.v4.new_markdown_cell(f"## {section}") for section in guard.SECTIONS]
    for number in range(1, 11):
        cell = nbformat.v4.new_code_cell("x = 1\nx", execution_count=number)
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=number)]
        cells.append(cell)
    cells[-1].metadata["kvlab"] = {"drive": "slider"}
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata)))


def check(tmp_path: Path, notebook: Notebook, name: str = "07_lesson.ipynb") -> list[str]:
    path = tmp_path / name
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return guard.problems(path)


def code(notebook: Notebook, index: int = 0) -> dict[str, Any]:
    return guard.code_cells(notebook)[index]


def output(notebook: Notebook, text: str) -> None:
    code(notebook)["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [text]}]


def title(notebook: Notebook, text: str) -> None:
    notebook["cells"][0]["source"] = text


def tag(notebook: Notebook, count: int, name: str) -> None:
    for index in range(count):
        code(notebook, index)["metadata"]["tags"] = [name]


def error(notebook: Notebook, tags: list[str]) -> None:
    code(notebook)["outputs"] = [
        {"output_type": "error", "ename": "IndexError", "evalue": "", "traceback": []}
    ]
    code(notebook)["metadata"]["tags"] = tags


PLANTED: dict[str, tuple[Callable[[Notebook], Any], str]] = {
    "unexecuted": (lambda n: code(n).update(execution_count=None), "cell 7: not executed"),
    "empty": (lambda n: code(n).update(source="  \n"), "cell 7: an empty code cell"),
    "run out of order": (lambda n: code(n).update(execution_count=12), "not run once from top to bottom"),
    "error": (lambda n: error(n, []), "IndexError"),
    "no kernelspec": (lambda n: n["metadata"].clear(), "kernelspec"),
    "another kernel": (lambda n: n["metadata"]["kernelspec"].update(name="venv"), "kernelspec"),
    "widget state": (lambda n: n["metadata"].update(widgets={}), "widget state"),
    "16 lines": (lambda n: code(n).update(source="x\n" * 16), "16 lines"),
    "80 columns": (lambda n: code(n).update(source=["x\n", "y" * 80]), "line 2 has 80 columns"),
    "path in code": (lambda n: code(n).update(source=f"open('{HOME}/a')"), f'absolute path: "{HOME}/a'),
    "path in prose": (lambda n: title(n, TITLE + f" See {HOME}."), "cell 1: holds an absolute path"),
    "path in output": (lambda n: output(n, f"saved to {HOME}/x.json\n"), "absolute path"),
    "windows path": (lambda n: output(n, "C:\\Users\\me"), "absolute path"),
    "too big": (lambda n: output(n, "x" * 1_000_001), "more than 1,000,000"),
    "3 of 10 ignored": (lambda n: tag(n, 3, "nbval-ignore-output"), "3 of 10 code cells"),
    "3 of 10 skipped": (lambda n: tag(n, 3, "nbval-skip"), "3 of 10 code cells"),
    "ignored by comment": (
        lambda n: [code(n, i).update(source="# NBVAL_IGNORE_OUTPUT\nx") for i in range(3)],
        "3 of 10 code cells",
    ),
    "no abstract": (lambda n: title(n, "# 07 A lesson"), "no Chinese abstract"),
    "abstract in English": (lambda n: title(n, "# 07\n\n> a\n> b\n> c"), "no Chinese abstract"),
    "abstract of two lines": (lambda n: title(n, "# 07\n\n> 一\n> 二"), "no Chinese abstract"),
    "abstract partly Chinese": (lambda n: title(n, "# 07\n\n> 一\n> b\n> 三"), "no Chinese abstract"),
    "abstract not on top": (lambda n: n["cells"].append(n["cells"].pop(0)), "no Chinese abstract"),
    "nothing driven": (lambda n: code(n, -1)["metadata"].pop("kvlab"), "no widget is driven"),
    **{
        f"no {section}": (lambda n, i=i: n["cells"].pop(i), f"begins with {section!r}")
        for i, section in enumerate(guard.SECTIONS, 1)
    },
}


def test_a_good_lesson_passes(tmp_path: Path) -> None:
    assert check(tmp_path, good()) == []


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_defect_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    plant, expected = PLANTED[name]
    notebook = copy.deepcopy(good())
    plant(notebook)
    [found] = check(tmp_path, notebook)
    assert expected in found


ALLOWED: dict[str, Callable[[Notebook], Any]] = {
    "15 lines": lambda n: code(n).update(source="x\n" * 15),
    "79 columns": lambda n: code(n).update(source="y" * 79),
    "2 of 10 ignored": lambda n: tag(n, 2, "nbval-ignore-output"),
    "an error on purpose": lambda n: error(n, ["raises-exception"]),
    "web address": lambda n: title(n, TITLE + f" https://example.org{HOME} and a{HOME}"),
    "division": lambda n: code(n).update(source="work/usr/3"),
    "picture in HTML": lambda n: output(n, f"<img src='data:image/png;base64,AA+{HOME}/AA=='>"),
    "decorated heading": lambda n: n["cells"][2].update(source="### ✏️ predict: how much?"),
    "several steps": lambda n: code(n)["metadata"].update(kvlab={"drive": ["slider", "button:Next"]}),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_not_reported(name: str, tmp_path: Path) -> None:
    notebook = good()
    ALLOWED[name](notebook)
    assert check(tmp_path, notebook) == []


def test_lesson_00_needs_no_exercise_section(tmp_path: Path) -> None:
    notebook = good()
    del notebook["cells"][2:6]
    assert check(tmp_path, notebook, "00_start.ipynb") == []
    assert len(check(tmp_path, notebook)) == 4
