"""What an exercise is made of, and where its files are (`exercises/e03_1.py`, `solutions/03_1_*.py`)."""

from __future__ import annotations

import copy
import importlib.util
import linecache
import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

HERE = Path(__file__).parent
Candidate = Callable[..., Any]  # the learner's function (or class), or one that stands for it


class Unfit(Exception):
    """Raised by an exercise's `run` where a result is not of the asked form; a sentence for the learner."""


class Draw:
    """Seeded fresh inputs: `draw.normal(2, 4)`, `draw.integer(3, 9)`, `draw.one_of([…])`, …"""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> torch.Tensor:
        """A float32 tensor of standard normal values."""
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape: int) -> torch.Tensor:
        """A float32 tensor of values in [0, 1)."""
        return torch.rand(*shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """An int64 tensor of values from low to high - 1."""
        return torch.randint(low, high, shape, generator=self.generator)

    def integer(self, low: int, high: int) -> int:
        """One whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def one_of(self, values: Any) -> Any:
        """One of a list's values."""
        return values[self.integer(0, len(values) - 1)]

    def shuffle(self, count: int) -> list[int]:
        """The numbers 0 … count - 1 in some order."""
        return torch.randperm(count, generator=self.generator).tolist()


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation that somebody may well write, and the sentence that names it."""

    message: str
    wrong: Candidate


@dataclass
class Exercise:
    """One exercise; see `kvlab.lesson` for a file to start from.

    Args:
        id: "03.1": lesson and number.
        title: a few words.
        function: the name that the learner defines (a function, or a class).
        stub: the code the lesson's cell holds before anything is written.
        rtol, atol: how near numbers must be.
        cases: how many fresh inputs a check tries.
        in_place: the arguments are meant to be changed; they are then compared, too.
        hint: what to look at when nothing else is known about an error.
    """

    id: str
    title: str
    function: str
    stub: str
    rtol: float = 1e-4
    atol: float = 1e-5
    cases: int = 6
    in_place: bool = False
    hint: str = ""
    mistakes: list[Mistake] = field(default_factory=list)
    _inputs: Callable[[Draw], tuple[Any, ...]] | None = None
    _run: Callable[..., Any] | None = None
    _alternative: Candidate | None = None

    def inputs(self, function: Callable[[Draw], tuple[Any, ...]]) -> Callable[[Draw], tuple[Any, ...]]:
        """Decorator: makes one tuple of arguments from a `Draw`."""
        self._inputs = function
        return function

    def run(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator, optional: `run(candidate, *arguments)` says how to use what the learner wrote.

        For a class or several steps: make an object, call it a few times, return the list of results.
        Without it the candidate is called with the arguments.
        """
        self._run = function
        return function

    def alternative(self, function: Candidate) -> Candidate:
        """Decorator: a correct solution written another way (tests check that it passes)."""
        self._alternative = function
        return function

    def mistake(self, message: str) -> Callable[[Candidate], Candidate]:
        """Decorator: a plausible wrong solution and the message for who wrote it."""

        def add(function: Candidate) -> Candidate:
            self.mistakes.append(Mistake(message, function))
            return function

        return add

    def arguments(self, case: int) -> tuple[Any, ...]:
        """Fresh arguments for case 0, 1, …: the same on every run."""
        if self._inputs is None:
            raise ValueError(f"exercise {self.id} has no @EXERCISE.inputs")
        lesson, number = self.id.split(".")
        given = self._inputs(Draw(1000 * int(lesson) + 100 * int(number) + case))
        return given if isinstance(given, tuple) else (given,)

    def attempt(self, candidate: Candidate, case: int) -> Any:
        """What a candidate returns for a case; with `in_place`, [that, the arguments afterwards]."""
        given = copy.deepcopy(self.arguments(case))
        result = self._run(candidate, *given) if self._run else candidate(*given)
        return [result, list(given)] if self.in_place else result

    @property
    def reference(self) -> Candidate:
        """The function in the solution file."""
        return getattr(solution_module(self.id), self.function)

    @property
    def other(self) -> Candidate | None:
        """The alternative solution."""
        return self._alternative

    def stub_function(self) -> Candidate:
        """What a learner has who ran the stub and wrote nothing."""
        return define(self.stub, self.function)


def define(code: str, name: str) -> Candidate:
    """Run code and return what it calls `name`; `torch` and `math` are there. Tracebacks can quote it."""
    filename = f"<kvlab {name} {zlib.crc32(code.encode()):x}>"
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    space: dict[str, Any] = {"torch": torch, "math": math, "__name__": "__main__"}
    exec(compile(code, filename, "exec"), space)
    return space[name]


def _stem(id: str) -> str:
    return id.replace(".", "_")


def exercise_ids() -> list[str]:
    """The ids of all exercises, in order: one for each file `exercises/eNN_M.py`."""
    files = (HERE / "exercises").glob("e[0-9][0-9]_[0-9]*.py")
    return sorted(f.stem[1:].replace("_", ".") for f in files)


@cache
def exercise(id: str) -> Exercise:
    """The exercise with this id. Raises LookupError, with the ids there are, if there is none."""
    if id not in exercise_ids():
        known = ", ".join(exercise_ids()) or "none yet"
        raise LookupError(f"there is no exercise {id!r}; there are: {known}")
    found = _module(HERE / "exercises" / f"e{_stem(id)}.py").EXERCISE
    if found.id != id:
        raise LookupError(f"the file of exercise {id} says it is exercise {found.id}")
    return found


def solution_file(id: str) -> Path:
    """The file `solutions/NN_M_*.py` of an exercise. Raises LookupError if it is not there exactly once."""
    files = sorted((HERE / "solutions").glob(f"{_stem(id)}_*.py"))
    if len(files) != 1:
        raise LookupError(f"exercise {id} needs one file solutions/{_stem(id)}_*.py; found {len(files)}")
    return files[0]


@cache
def solution_module(id: str) -> ModuleType:
    """The solution file as a module (its name starts with digits, so `import` can't be used)."""
    return _module(solution_file(id))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kvlab_{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module
