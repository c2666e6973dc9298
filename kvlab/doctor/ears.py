"""Listening at a model's first layer while somebody else drives it: what its cache held when a text began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kvlab.doctor.reference import KvlabReference, Reference
from kvlab.stores.static import StaticLayer


@dataclass
class Heard:
    """before: entries that the first call found in the cache; static: whether it is allocated once."""

    calls: int = 0
    before: int | None = None
    static: bool | None = None


@contextmanager
def listening(reference: Reference | None) -> Iterator[Heard]:
    """Hear the calls of kvlab's decoder inside the `with` block; other models stay silent."""
    heard = Heard()
    if not isinstance(reference, KvlabReference):
        yield heard
        return

    def hear(module: Any, args: tuple[Any, ...]) -> None:
        layer, step = args[1], args[2].step
        if heard.calls == 0:
            heard.before = int((step.ledger[:, 0] >= 0).sum(dim=-1).max()) - step.tokens
            heard.static = isinstance(layer, StaticLayer)
        heard.calls += 1

    handle = reference.layers()[0].register_forward_pre_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()
