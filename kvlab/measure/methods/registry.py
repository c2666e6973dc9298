"""What a method of `kvlab bench quality` is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvlab.cache import Cache
from kvlab.measure.quality_runs import Factory, Task

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@dataclass(frozen=True)
class Method:
    """`arguments(lm, task)` gives the keyword arguments of `kvlab.Cache`."""

    name: str
    family: str
    about: str
    arguments: Callable[[Decoder, Task], dict[str, Any]]

    def factory(self, lm: Decoder) -> Factory:
        """Makes its caches for `lm`."""
        return lambda task: Cache(lm, **self.arguments(lm, task))


METHODS: dict[str, Method] = {}


def method(
    name: str, family: str, about: str, arguments: Callable[[Decoder, Task], dict[str, Any]]
) -> Method:
    """Add a method to METHODS.

    Raises:
        ValueError: the name is taken.
    """
    if name in METHODS:
        raise ValueError(f"there is a method {name!r} already; give yours another name.")
    METHODS[name] = Method(name, family, about, arguments)
    return METHODS[name]


def find_methods(names: list[str], family: str | None = None) -> list[Method]:
    """The methods of these names, of a family, or all; in the order of METHODS.

    Raises:
        ValueError: a name or family that there is not.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    families = list(dict.fromkeys(m.family for m in METHODS.values()))
    if family is not None and family not in families:
        raise ValueError(f"there is no family {family!r}; there are {', '.join(families)}.")
    chosen = [m for m in METHODS.values() if not names or m.name in names]
    return [m for m in chosen if family is None or m.family == family]


def share(task: Task, part: float, less: int = 0) -> int:
    """So many entries: `part` of the prompt, less some that are counted apart; at least one."""
    return max(1, int(task.prompt * part) - less)
