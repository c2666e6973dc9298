"""`check` on one small exercise: what it says to right, wrong, unfinished, failing and strange answers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from kvlab.lesson import check, exercise, exercise_ids, solution
from kvlab.lesson.exercise import define

machinery = importlib.import_module("kvlab.lesson.exercise")  # kvlab.lesson.exercise itself is the function

FILE = '''
"""90.1: softmax over the last axis."""
import torch
from kvlab.lesson.exercise import Exercise

EXERCISE = Exercise("90.1", "Softmax", function="softmax", stub="""
def softmax(scores):
    # scores: [queries, keys] -> [queries, keys]
    ...
""", hint="Compare with torch.softmax.")

@EXERCISE.inputs
def inputs(draw):
    return draw.normal(draw.integer(2, 4), draw.integer(2, 5))

@EXERCISE.alternative
def alternative(scores):
    return scores.softmax(-1)

@EXERCISE.mistake("You normalised over the queries.")
def columns(scores):
    return scores.softmax(0)

@EXERCISE.mistake("You forgot the exponential.")
def linear(scores):
    return scores / scores.sum(-1, keepdim=True)

@EXERCISE.mistake("You forgot to divide.")
def undivided(scores):
    return scores.exp()
'''
SOLUTION = """import torch


def softmax(scores):
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True)
"""


@pytest.fixture(autouse=True)
def _course_with_one_exercise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path, "90.1", FILE, SOLUTION)
    monkeypatch.setattr(machinery, "HERE", tmp_path)
    clear = (machinery.exercise.cache_clear, machinery.solution_module.cache_clear)
    for forget in clear:
        forget()
    yield
    for forget in clear:
        forget()


def put(folder: Path, id: str, file: str, solved: str) -> None:
    stem = id.replace(".", "_")
    for kind, name, text in (("exercises", f"e{stem}.py", file), ("solutions", f"{stem}_x.py", solved)):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / name).write_text(text, encoding="utf-8")


def verdict(code: str, id: str = "90.1", name: str = "softmax"):
    """What the check says to a learner's cell."""
    return check(id, define(code, name))


def test_right_answers_pass_in_one_fixed_line() -> None:
    found = check("90.1", lambda scores: torch.softmax(scores, dim=-1))
    assert found.ok and repr(found) == "✓ 90.1: Softmax: right on 6 fresh inputs."
    assert found == check("90.1", exercise("90.1").reference)
    assert "✓ 90.1" in found._repr_html_()


def test_rounding_is_forgiven() -> None:
    assert check("90.1", lambda scores: torch.softmax(scores.double(), -1)).ok
    assert check("90.1", lambda scores: torch.softmax(scores, -1).numpy()).ok


@pytest.mark.parametrize(
    "body",
    [
        "...",
        "pass",
        "return None",
        "return NotImplemented",
        "return ...",
        "raise NotImplementedError",
        "raise NotImplementedError('write this')",
        "'''docs'''",
    ],
)
def test_an_untouched_stub_says_not_yet(body: str) -> None:
    found = verdict(f"def softmax(scores):\n    {body}\n")
    assert found.kind == "not yet" and not found.ok
    assert found.text == "not yet: write `softmax` above, run its cell, then this one."


def test_planted_mistakes_are_named_however_they_are_written() -> None:
    code = "def softmax(s):\n    w = s.exp()\n    return w / w.sum(dim=0, keepdim=True)\n"
    assert verdict(code).kind == "mistake" and verdict(code).text == "You normalised over the queries."
    assert verdict("softmax = torch.exp").text == "You forgot to divide."


def test_an_unknown_mistake_shows_the_first_difference() -> None:
    found = check("90.1", lambda scores: torch.softmax(2 * scores, -1))
    assert found.kind == "unknown"
    scores = exercise("90.1").arguments(0)[0]
    want, have = scores.softmax(-1)[0, 0].item(), (2 * scores).softmax(-1)[0, 0].item()
    assert f"at index [0, 0] expected {want:.4g}, got {have:.4g}" in found.text
    assert f"(input: a tensor {list(scores.shape)})" in found.text
    assert found.text.endswith("This is none of the mistakes I know. Compare with torch.softmax.")


def test_a_mistake_on_some_inputs_says_on_how_many_it_is_right() -> None:
    shapes = [exercise("90.1").arguments(case)[0].shape[1] for case in range(6)]
    worst = max(shapes)
    found = check("90.1", lambda s: s.softmax(-1) * (1 if s.shape[1] < worst else 2))
    assert f"right on {sum(n < worst for n in shapes)} of 6 inputs; then" in found.text


def test_wrong_shapes_and_types_are_said() -> None:
    assert "expected shape" in check("90.1", lambda s: s.softmax(-1)[:, :1]).text
    assert "expected a tensor of shape" in check("90.1", lambda s: 3).text
    assert "got numbers" not in check("90.1", lambda s: s > 0).text
    assert "expected numbers, got True and False (torch.bool)" in check("90.1", lambda s: s > 0).text
    assert "NaN comes from" in check("90.1", lambda s: s * float("nan")).text


def test_a_forgotten_return_is_not_taken_for_a_stub() -> None:
    found = verdict("def softmax(scores):\n    w = scores.exp()\n    w / w.sum()\n")
    assert found.kind == "error" and found.text == "`softmax` returned None: is a `return` missing?"


def test_an_exception_is_quoted_with_its_line() -> None:
    found = verdict("def softmax(scores):\n    w = scores.exp()\n    return w @ w\n")
    assert found.kind == "error"
    assert found.text.startswith("line 3, `return w @ w`, stopped with RuntimeError: ")
    assert "the shapes don't fit" in found.text and "(input: a tensor [" in found.text
    assert "\n" not in repr(found)


def test_an_exception_inside_a_helper_points_at_the_learners_line() -> None:
    found = verdict("def softmax(scores):\n    return torch.cat([scores, 1])\n")
    assert found.text.startswith("line 2, `return torch.cat([scores, 1])`, stopped with TypeError")
    assert "is it defined" in verdict("def softmax(scores):\n    return scoers\n").text
    assert "keep the arguments" in verdict("def softmax():\n    return 1\n").text


def test_what_is_no_function_is_refused_kindly() -> None:
    found = check("90.1", torch.ones(2))
    assert found.kind == "error" and "`check('90.1', softmax)`" in found.text


def test_writing_into_the_arguments_is_noticed() -> None:
    found = check("90.1", lambda scores: scores.sub_(scores.amax(-1, keepdim=True)).softmax(-1))
    assert found.kind == "mistake" and "changes its arguments in place" in found.text


def test_unknown_ids_list_what_there_is() -> None:
    with pytest.raises(LookupError, match="there are: 90.1"):
        check("90.2", torch.exp)
    assert exercise_ids() == ["90.1"]


def test_the_solution_is_shown_from_its_file() -> None:
    shown = solution("90.1")._repr_mimebundle_()
    assert (
        shown["text/markdown"].count("```python\nimport torch") == 1
        and SOLUTION.strip() in shown["text/plain"]
    )


CLASS_FILE = '''
import torch
from kvlab.lesson.exercise import Exercise

EXERCISE = Exercise("90.2", "A store", function="Store", stub="""
class Store:
    def __init__(self):
        self.rows = []

    def append(self, row):
        ...
""")

@EXERCISE.inputs
def inputs(draw):
    return ([draw.normal(2) for _ in range(3)],)

@EXERCISE.run
def run(candidate, rows):
    store = candidate()
    return [torch.stack(list(store.append(row))) for row in rows]

@EXERCISE.mistake("You keep only the newest row.")
class Newest:
    def append(self, row):
        return [row]
'''
CLASS_SOLUTION = """class Store:
    def __init__(self):
        self.rows = []

    def append(self, row):
        self.rows.append(row)
        return self.rows
"""


def test_a_class_is_driven_by_its_run(tmp_path: Path) -> None:
    put(tmp_path, "90.2", CLASS_FILE, CLASS_SOLUTION)
    task = exercise("90.2")
    assert check("90.2", task.reference).ok
    assert check("90.2", task.stub_function()).kind == "not yet"
    wrong = "class Store:\n    def append(self, row):\n        self.last = row\n        return [self.last]\n"
    assert verdict(wrong, "90.2", "Store").text == "You keep only the newest row."
    failing = "class Store:\n    def append(self, row):\n        return self.rows + [row]\n"
    assert "line 3, `return self.rows + [row]`" in verdict(failing, "90.2", "Store").text


IN_PLACE_FILE = '''
from kvlab.lesson.exercise import Exercise

EXERCISE = Exercise("90.3", "Write a row", function="write", in_place=True, stub="""
def write(buffer, row, slot):
    ...
""")

@EXERCISE.inputs
def inputs(draw):
    return draw.normal(4, 2), draw.normal(2), draw.integer(1, 3)

@EXERCISE.mistake("You wrote into slot 0.")
def first(buffer, row, slot):
    buffer[0] = row
'''


def test_in_place_exercises_compare_the_arguments(tmp_path: Path) -> None:
    put(tmp_path, "90.3", IN_PLACE_FILE, "def write(buffer, row, slot):\n    buffer[slot] = row\n")
    task = exercise("90.3")
    assert check("90.3", task.reference).ok
    assert check("90.3", task.stub_function()).kind == "not yet"
    assert (
        verdict("def write(b, r, s):\n    b[s - s].copy_(r)\n", "90.3", "write").text
        == "You wrote into slot 0."
    )
    assert "at index" in verdict("def write(b, r, s):\n    b += 1\n", "90.3", "write").text


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    put(tmp_path, "90.4", FILE, SOLUTION)
    with pytest.raises(LookupError, match="says it is exercise 90.1"):
        exercise("90.4")
    (tmp_path / "solutions" / "90_1_x.py").unlink()
    with pytest.raises(LookupError, match="found 0"):
        check("90.1", torch.exp)
