"""Code shown in a notebook: the package's own lines, and the solutions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .exercise import solution_file


@dataclass(frozen=True)
class Listing:
    """Python code with a line above it that says where it stands."""

    where: str
    code: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        text = f"{self.where}\n\n{self.code}"
        return {"text/markdown": f"`{self.where}`\n\n```python\n{self.code}\n```", "text/plain": text}


def source(obj: Any, docstring: bool = True) -> Listing:
    """The lines of a function, class or module of the package; `docstring=False` leaves docstrings out."""
    code = textwrap.dedent(inspect.getsource(obj)).rstrip()
    path = Path(inspect.getsourcefile(obj) or "?")
    parts = path.parts
    start = len(parts) - 1 - parts[::-1].index("kvlab") if "kvlab" in parts else len(parts) - 1
    where = "/".join(parts[start:])
    return Listing(where, code if docstring else without_docstrings(code))


def without_docstrings(code: str) -> str:
    """Code without its docstrings; all other lines, comments included, stay as they are."""
    drop: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node) is not None and (len(node.body) > 1 or isinstance(node, ast.Module)):
            first = node.body[0]
            drop |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = [line for i, line in enumerate(code.splitlines(), 1) if i not in drop]
    return "\n".join(lines).strip("\n")


def solution(id: str) -> Listing:
    """The solution of an exercise, as it stands in `kvlab/lesson/solutions/`."""
    path = solution_file(id)
    return Listing(f"kvlab/lesson/solutions/{path.name}", path.read_text(encoding="utf-8").rstrip())
