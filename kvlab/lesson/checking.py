"""`check("03.1", function)`: run a learner's function on fresh inputs and name the mistake."""

from __future__ import annotations

import copy
import dis
import linecache
import traceback
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal

from .compare import difference, show
from .exercise import Candidate, Exercise, Unfit, exercise
from .style import BLUE, GREEN, QUIET, RUST
from .tables import card, inline

Kind = Literal["passed", "not yet", "mistake", "unknown", "error"]
_MARKS: dict[Kind, tuple[str, str]] = {
    "passed": ("✓", GREEN),
    "not yet": ("…", QUIET),
    "mistake": ("✗", RUST),
    "unknown": ("✗", RUST),
    "error": ("✗", BLUE),
}


@dataclass(frozen=True)
class Check:
    """The verdict on an exercise: `.kind` and one line of `.text`. Shown as a card in a notebook."""

    id: str
    kind: Kind
    text: str

    @property
    def ok(self) -> bool:
        """Whether the exercise is solved."""
        return self.kind == "passed"

    def __repr__(self) -> str:
        return f"{_MARKS[self.kind][0]} {self.id}: {self.text}"

    def _repr_html_(self) -> str:
        mark, colour = _MARKS[self.kind]
        return card(f"<strong>{mark} {self.id}</strong> {inline(self.text)}", colour)


@dataclass(frozen=True)
class _Raised:
    """An exception that a candidate raised, as an outcome."""

    error: Exception


def check(id: str, candidate: Candidate) -> Check:
    """Try what the learner wrote on fresh inputs and say what is right or wrong with it; never raises for it.

    A planted mistake counts as found when the learner's results equal those of its wrong implementation on
    every input. Raises LookupError for an unknown id.
    """
    task = exercise(id)
    if not callable(candidate):
        hint = f"give the function itself: `check({id!r}, {task.function})`, without calling it"
        return Check(id, "error", f"got {show(candidate)}; {hint}.")
    mine = [_outcome(task, candidate, case) for case in range(task.cases)]
    if _untouched(task, candidate, mine[0]):
        return Check(id, "not yet", f"not yet: write `{task.function}` above, run its cell, then this one.")
    wanted = [_outcome(task, task.reference, case) for case in range(task.cases)]
    gaps = [_gap(task, w, m) for w, m in zip(wanted, mine, strict=True)]
    if not any(gaps):
        changed = _changed_inputs(task, candidate)
        if changed:
            return Check(id, "mistake", f"the result is right, but {changed}.")
        return Check(id, "passed", f"{task.title}: right on {task.cases} fresh inputs.")
    for mistake in task.mistakes:
        planted = (_outcome(task, mistake.wrong, case) for case in range(task.cases))
        if all(_gap(task, p, m) is None for p, m in zip(planted, mine, strict=True)):
            return Check(id, "mistake", mistake.message)
    return _unknown(task, candidate, mine, gaps)


def _outcome(task: Exercise, candidate: Candidate, case: int) -> Any:
    try:
        return task.attempt(candidate, case)
    except Exception as error:
        return _Raised(error)


def _untouched(task: Exercise, candidate: Candidate, first: Any) -> bool:
    if isinstance(first, _Raised):
        return isinstance(first.error, NotImplementedError) or _same_code(task, candidate)
    result = first[0] if task.in_place else first
    if result is NotImplemented or result is Ellipsis:
        return True
    return _same_code(task, candidate) or (result is None and _does_nothing(candidate))


def _does_nothing(candidate: Candidate) -> bool:
    """Whether a function only returns a constant: a stub with other comments or docstrings."""
    found = getattr(candidate, "__code__", None)
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    return found is not None and {step.opname for step in dis.get_instructions(found)} <= idle


def _same_code(task: Exercise, candidate: Candidate) -> bool:
    """Whether the learner's code is still the stub's (comments and docstrings aside)."""
    return _code(candidate) == _code(task.stub_function())


def _code(candidate: Candidate) -> list[tuple[bytes, str]]:
    """The instructions, names and constants of a function, or of a class's methods; without docstrings."""
    found = getattr(candidate, "__code__", None)
    if found is None:
        members = vars(candidate).items() if isinstance(candidate, type) else ()
        methods = sorted((m for m in members if hasattr(m[1], "__code__")), key=lambda m: m[0])
        return [entry for _, method in methods for entry in _code(method)]
    doc = getattr(candidate, "__doc__", None)
    constants = [c for c in found.co_consts if c != doc and not isinstance(c, CodeType)]
    return [(found.co_code, repr((constants, found.co_names, found.co_varnames)))]


def _gap(task: Exercise, expected: Any, actual: Any) -> str | None:
    """How an outcome differs from another; exceptions are equal when type and text are."""
    if isinstance(expected, _Raised) or isinstance(actual, _Raised):
        both = isinstance(expected, _Raised) and isinstance(actual, _Raised)
        if both and type(expected.error) is type(actual.error) and str(expected.error) == str(actual.error):
            return None
        return "one of them raises an error"
    try:
        return difference(expected, actual, task.rtol, task.atol)
    except TypeError:  # a planted mistake returned something that can't be compared: it is not this one
        return "the results are of different types"


def _changed_inputs(task: Exercise, candidate: Candidate) -> str | None:
    """A clause if a function that should only compute wrote into its arguments."""
    if task.in_place or task._run is not None:
        return None
    given = task.arguments(0)
    before = copy.deepcopy(given)
    try:
        candidate(*given)
        changed = difference(list(before), list(given), rtol=0, atol=0)
    except Exception:  # arguments that can't be compared are not checked
        return None
    if changed is None:
        return None
    return f"your function changes its arguments in place ({changed}); work on a new tensor"


def _unknown(task: Exercise, candidate: Candidate, mine: list[Any], gaps: list[str | None]) -> Check:
    wrong = [i for i, gap in enumerate(gaps) if gap]
    case = next((i for i in wrong if isinstance(mine[i], _Raised)), wrong[0])  # an exception says most
    right = gaps.count(None)
    inputs = ", ".join(_describe(value) for value in task.arguments(case))
    on = f" (input: {inputs})" if inputs else ""
    if isinstance(mine[case], _Raised):
        if isinstance(mine[case].error, Unfit):
            return Check(task.id, "error", str(mine[case].error))
        return Check(task.id, "error", f"{_located(candidate, mine[case].error)}{on}.{_hint(task)}")
    result = mine[case][0] if task.in_place else mine[case]
    if result is None and not task.in_place:
        return Check(task.id, "error", f"`{task.function}` returned None: is a `return` missing?")
    some = f"right on {right} of {task.cases} inputs; then " if right else ""
    text = f"{some}{gaps[case]}{on}. This is none of the mistakes I know.{_hint(task)}"
    return Check(task.id, "unknown", text)


def _hint(task: Exercise) -> str:
    return f" {task.hint}" if task.hint else ""


def _describe(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, (list, tuple)) and value and all(hasattr(v, "shape") for v in value):
        return f"{len(value)} tensors"
    plain = value is None or isinstance(value, (int, float, str, list, tuple))
    return show(value) if plain else type(value).__name__


def _located(candidate: Candidate, error: Exception) -> str:
    """An exception with the learner's own line, and what usually causes it."""
    codes = {found.co_filename for found in _codes(candidate)}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in codes]
    reason = (str(error).splitlines() or [""])[0]
    message = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if not frames:
        return f"your code stopped with {message}{_cause(error)}"
    last = frames[-1]
    line = (linecache.getline(last.filename, last.lineno or 0) or last.line or "").strip()
    quoted = f", `{line}`" if line else ""
    return f"line {last.lineno}{quoted}, stopped with {message}{_cause(error)}"


def _codes(candidate: Candidate) -> list[CodeType]:
    if isinstance(candidate, type):
        return [f.__code__ for f in vars(candidate).values() if hasattr(f, "__code__")]
    found = getattr(candidate, "__code__", None)
    return [found] if found else []


def _cause(error: Exception) -> str:
    text = str(error)
    if "size of tensor" in text or "shapes cannot be multiplied" in text or "must match" in text:
        return "; the shapes don't fit: print them before this line (is a transpose missing?)"
    if "same number of dimensions" in text:
        return "; one of them lacks a dimension: `x[None]` puts one in front"
    if isinstance(error, ValueError) and "to unpack" in text:
        return "; return as many things as the exercise asks for, in that order"
    if isinstance(error, TypeError) and "positional argument" in text:
        return "; keep the arguments as they were given"
    if isinstance(error, NameError):
        return "; is it defined in a cell that has not been run?"
    if isinstance(error, IndexError):
        return "; an index is past the end: positions count from 0"
    return ""
