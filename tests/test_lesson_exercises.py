"""Every exercise of the course: solution, another solution, stub, planted mistakes, an unknown mistake."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from kvlab.lesson import check, checking, exercise, exercise_ids, solution
from kvlab.lesson.checking import _gap, _outcome
from kvlab.lesson.exercise import HERE, Exercise

IDS = exercise_ids()
MISTAKES = [(id, n) for id in IDS for n in range(len(exercise(id).mistakes))]


@pytest.mark.parametrize("id", IDS)
def test_the_solution_passes(id: str) -> None:
    assert check(id, exercise(id).reference).ok, check(id, exercise(id).reference)
    assert exercise(id).function in solution(id).code


@pytest.mark.parametrize("id", IDS)
def test_another_correct_solution_passes(id: str) -> None:
    other = exercise(id).other
    assert other is not None, "the file needs an @EXERCISE.alternative"
    assert other is not exercise(id).reference
    assert check(id, other).ok, check(id, other)


@pytest.mark.parametrize("id", IDS)
def test_the_stub_says_not_yet(id: str) -> None:
    assert check(id, exercise(id).stub_function()).kind == "not yet"


@pytest.mark.parametrize("id", IDS)
def test_at_least_three_mistakes_have_messages_of_their_own(id: str) -> None:
    messages = [mistake.message for mistake in exercise(id).mistakes]
    assert len(messages) >= 3 and len(set(messages)) == len(messages)
    assert all(len(message) > 20 for message in messages)


@pytest.mark.parametrize(("id", "number"), MISTAKES)
def test_each_mistake_is_named(id: str, number: int) -> None:
    mistake = exercise(id).mistakes[number]
    found = check(id, mistake.wrong)
    assert (found.kind, found.text) == ("mistake", mistake.message)


@pytest.mark.parametrize("id", IDS)
def test_a_mistake_that_nobody_planted_is_called_unknown(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checking._outcome

    def outcome(task: Exercise, who: Any, case: int) -> Any:
        return _off(real(task, task.reference, case)) if who is strange else real(task, who, case)

    monkeypatch.setattr(checking, "_outcome", outcome)
    found = check(id, strange)
    assert found.kind == "unknown" and "none of the mistakes I know" in found.text


def strange(*arguments: Any) -> Any:
    """Stands for what a learner wrote whose results are off in a way that nobody foresaw."""
    return arguments


def _off(value: Any) -> Any:
    """A result with one value changed."""
    value = copy.deepcopy(value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 12345
    if isinstance(value, str):
        return value + " ?"
    if isinstance(value, torch.Tensor):
        flip = value.dtype == torch.bool
        first = (0,) * value.ndim
        value[first] = ~value[first] if flip else value[first] + 12345
        return value
    if isinstance(value, dict):
        return {key: _off(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)) and value:
        return type(value)([_off(value[0]), *value[1:]])
    return "something else"


@pytest.mark.parametrize("id", IDS)
def test_inputs_are_the_same_on_every_run_and_tell_all_mistakes_apart(id: str) -> None:
    task = exercise(id)
    outcomes = [[_outcome(task, who, case) for case in range(task.cases)] for who in _everybody(task)]
    again = [_outcome(task, task.reference, case) for case in range(task.cases)]
    assert not any(_gap(task, a, b) for a, b in zip(outcomes[0], again, strict=True))
    for i, one in enumerate(outcomes):
        for other in outcomes[:i]:
            assert any(_gap(task, a, b) for a, b in zip(other, one, strict=True))


def _everybody(task: Exercise) -> list[Any]:
    return [task.reference, *(mistake.wrong for mistake in task.mistakes)]


@pytest.mark.parametrize("id", IDS)
def test_the_files_stay_small_and_each_exercise_has_its_own_solution(id: str) -> None:
    path = HERE / "exercises" / f"e{id.replace('.', '_')}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
    assert exercise(id).title and exercise(id).id == id


def test_no_solution_is_left_over() -> None:
    solved = {"_".join(p.stem.split("_")[:2]).replace("_", ".") for p in _solutions()}
    assert solved == set(IDS)


def _solutions() -> list[Path]:
    return sorted((HERE / "solutions").glob("[0-9]*.py"))
