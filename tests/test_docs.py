"""The documentation is true: its Python runs, its map of lessons is the course's, both languages agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvlab.lesson.session import CORE, LESSONS

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh.md")
PLANNED = {"README.md": "planned", "README.zh.md": "计划中"}


def lesson_rows(name: str) -> dict[str, list[str]]:
    """The rows of the map of lessons, by number: title, core mark, state."""
    rows = re.findall(r"^\| (\d\d) \| (.*) \| (●|) ?\| (.*) \|$", (ROOT / name).read_text(), re.MULTILINE)
    return {number: list(rest) for number, *rest in rows}


@pytest.mark.parametrize("name", READMES)
def test_the_map_of_lessons_is_the_courses(name: str) -> None:
    rows = lesson_rows(name)
    assert list(rows) == list(LESSONS)
    assert tuple(number for number, (_, core, _) in rows.items() if core) == CORE
    if name == "README.md":
        assert {number: title for number, (title, *_) in rows.items()} == LESSONS


@pytest.mark.parametrize("name", READMES)
def test_a_lesson_is_linked_if_it_is_there_and_planned_if_not(name: str) -> None:
    there = {path.name[:2]: path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    for number, (_, _, state) in lesson_rows(name).items():
        if number in there:
            assert state.endswith(f"](notebooks/{there[number]})"), f"{name} should link to {there[number]}"
        else:
            assert state == PLANNED[name], f"{name} promises lesson {number}"


@pytest.mark.weights
@pytest.mark.parametrize("name", READMES)
def test_the_python_in_the_readme_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), name, "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "Paris" in printed
    tokens = [int(count) for count in re.findall(r"(\d+)\S* tokens", printed)]
    assert len(tokens) == 2 and tokens[1] < tokens[0]


def test_the_glossary_explains_every_word_in_both_languages() -> None:
    rows = re.findall(r"^\|(.*)\|$", (ROOT / "docs" / "GLOSSARY.md").read_text(), re.MULTILINE)[2:]
    entries = [[cell.strip() for cell in row.split("|")] for row in rows]
    assert len(entries) >= 40
    chinese = re.compile(r"[\u4e00-\u9fff]")
    for english, translated, meaning, explained in entries:
        assert english and meaning and not chinese.search(english + meaning)
        assert chinese.search(translated) and chinese.search(explained)
    assert len({english for english, *_ in entries}) == len(entries)
