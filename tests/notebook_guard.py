"""What every committed lesson must be: `problems` reads one notebook and returns what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000
MAX_LINES = 15
MAX_COLUMNS = 79
IGNORED_SHARE = 1 / 5
ABSTRACT_LINES = 3

SECTIONS = ("What you will be able to do", "Predict", "Exercises", "Quiz", "Summary and references")
EXEMPT = {"00": SECTIONS[1:]}  # lesson 00 tries each of these once, in its own order

IGNORE_TAGS = {"nbval-ignore-output", "nbval-skip", "pytest-validate-ignore-output"}
IGNORE_COMMENT = re.compile(
    r"^\s*#+\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.M
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|work|Users|opt|mnt|var|srv|usr|content|kaggle)/[\w.]"
    r"|(?<![\w/])[A-Za-z]:\\{1,2}\w"
)
DATA_ADDRESS = re.compile(r"data:[\w/+.-]+;base64,[\w+/=]+")

Cell = dict[str, Any]


def problems(path: Path) -> list[str]:
    """Everything that is wrong with one notebook, each with the cell it is in (counted from 1)."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = list(_whole(path, notebook))
    for number, cell in enumerate(notebook["cells"], 1):
        checks = [_paths(cell)]
        if cell["cell_type"] == "code":
            checks += [_executed(cell), _errors(cell), _size(cell)]
        found += [f"cell {number}: {problem}" for check in checks for problem in check]
    return found


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """The code cells in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tags(cell: Cell) -> set[str]:
    """The tags of a cell."""
    return set(cell["metadata"].get("tags", []))


def source(cell: Cell) -> str:
    """A cell's text, which a file holds as one string or as a list of lines."""
    return "".join(cell["source"])


def drive(cell: Cell) -> list[str]:
    """How the browser test moves this cell's widget (metadata kvlab.drive: a step or a list of steps)."""
    steps = cell["metadata"].get("kvlab", {}).get("drive", [])
    return [steps] if isinstance(steps, str) else list(steps)


def _whole(path: Path, notebook: dict[str, Any]) -> Iterator[str]:
    if (size := path.stat().st_size) > MAX_BYTES:
        yield f"{size:,} bytes are more than {MAX_BYTES:,}"
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"
    if "widgets" in notebook["metadata"]:
        yield "widget state is stored in the notebook and would take the pictures' place"
    cells = code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    if None not in counts and counts != list(range(1, len(cells) + 1)):
        yield f"not run once from top to bottom: its cells are numbered {counts}"
    ignored = [cell for cell in cells if tags(cell) & IGNORE_TAGS or IGNORE_COMMENT.search(source(cell))]
    if len(ignored) > IGNORED_SHARE * len(cells):
        yield f"the outputs of {len(ignored)} of {len(cells)} code cells are not compared: more than a fifth"
    if not any(drive(cell) for cell in cells):
        yield "no widget is driven in a browser: give a cell the metadata {'kvlab': {'drive': 'slider'}}"
    yield from _text(path.name[:2], notebook)


def _text(lesson: str, notebook: dict[str, Any]) -> Iterator[str]:
    prose = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    quoted = re.findall(r"(?:^>.*\n?)+", prose[0] if prose else "", re.MULTILINE)
    abstracts = [quote.splitlines() for quote in quoted if CHINESE.search(quote)]
    if [len(lines) for lines in abstracts] != [ABSTRACT_LINES] or not all(map(CHINESE.search, abstracts[0])):
        yield f"the first Markdown cell has no Chinese abstract: a quotation (>) of {ABSTRACT_LINES} lines"
    headings = re.findall(r"^#{1,4}[^\w\n]*(.+)$", "\n".join(prose), re.MULTILINE)
    for section in SECTIONS:
        if section in EXEMPT.get(lesson, ()):
            continue
        if not any(heading.lower().startswith(section.lower()) for heading in headings):
            yield f"there is no section that begins with {section!r}"


def _executed(cell: Cell) -> Iterator[str]:
    if not source(cell).strip():
        yield "an empty code cell"
    elif cell["execution_count"] is None:
        yield "not executed"


def _errors(cell: Cell) -> Iterator[str]:
    if "raises-exception" in tags(cell):
        return
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            yield f"its output is an error ({output['ename']}) and it is not tagged raises-exception"


def _size(cell: Cell) -> Iterator[str]:
    lines = source(cell).rstrip().splitlines()
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines of code are more than {MAX_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield f"line {number} has {len(line)} columns, more than {MAX_COLUMNS}"


def _paths(cell: Cell) -> Iterator[str]:
    texts = [source(cell)]
    for output in cell.get("outputs", []):
        texts += ["".join(output.get("text", "")), *output.get("traceback", [])]
        data = output.get("data", {})
        texts += ["".join(data[kind]) for kind in data if kind.startswith("text/")]
    for text in texts:
        if found := ABSOLUTE.search(DATA_ADDRESS.sub("", text)):
            yield f"holds an absolute path: {text[found.start() : found.end() + 20]!r}"
