"""The model that a step uses: its owner rarely passes it along, but the function knows it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from kvlab.doctor.reference import Reference, reference_of

DEPTH = 3
PLAIN = (str, bytes, int, float, type(None), type, ModuleType, Tensor)  # no model in there


def find_references(thing: Any) -> list[Reference]:
    """A reference on every model that `thing` holds: attributes, closures, globals that its code names."""
    found: dict[int, Reference] = {}
    for one in _reachable(thing, DEPTH, set()):
        reference = reference_of(one)
        if reference is not None:
            found.setdefault(id(one), reference)
    return list(found.values())


def _reachable(thing: Any, depth: int, met: set[int]) -> Iterator[Any]:
    if hasattr(thing, "__wrapped__") and callable(thing):  # a decorator, as torch.no_grad(), costs no depth
        thing = inspect.unwrap(thing)
    if id(thing) in met or isinstance(thing, PLAIN):
        return
    met.add(id(thing))
    yield thing
    if depth == 0 or _is_model(thing):
        return
    for part in _parts(thing):
        yield from _reachable(part, depth - 1, met)


def _is_model(thing: Any) -> bool:
    return reference_of(thing) is not None


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, (list, tuple)):
        yield from thing[:8]
    elif hasattr(thing, "__code__"):  # a function: what it closes over, and the globals it names
        for cell in thing.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a name that was never bound
                continue
        for name in thing.__code__.co_names:
            if name in thing.__globals__:
                yield thing.__globals__[name]
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
    elif hasattr(thing, "__func__"):  # a bound method
        yield from (thing.__self__, thing.__func__)
    else:
        yield from getattr(thing, "__dict__", {}).values()
        for name in ("step", "__call__", "full"):
            method = getattr(type(thing), name, None)
            if hasattr(method, "__code__"):
                yield method
