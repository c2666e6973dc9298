"""Stores: where the entries live. One idea a file."""

from collections.abc import Callable

from kvlab.stores.base import FREE, Knobs, Layer, Step, Store, View
from kvlab.stores.cross import Cross
from kvlab.stores.dynamic import Dynamic
from kvlab.stores.hybrid import Hybrid
from kvlab.stores.none import NoStore
from kvlab.stores.sliding import Sliding
from kvlab.stores.static import Static

_ALL: tuple[type[Store], ...] = (NoStore, Dynamic, Static, Sliding, Hybrid, Cross)
STORES: dict[str, type[Store]] = {store.name: store for store in _ALL}


def named_store(name: str, capacity: int | None = None, batch: int = 1) -> Store:
    """The store that goes by `name`.

    Raises:
        ValueError: unknown name, or a capacity that is missing or has no use.
    """
    if name not in STORES:
        raise ValueError(f"there is no store {name!r}; choose one of {', '.join(map(repr, STORES))}.")
    if name == "static" and capacity is None:
        raise ValueError('store="static" is allocated at once: say for how many tokens, capacity=….')
    fixed: dict[str, Callable[..., Store]] = {"static": Static, "sliding": Sliding, "hybrid": Hybrid}
    if name in fixed and capacity is not None:
        return fixed[name](capacity=capacity, batch=batch)
    if capacity is not None:
        raise ValueError(f'store="{name}" has no fixed capacity; leave capacity out, or use store="static".')
    return STORES[name]()


__all__ = [
    "FREE",
    "STORES",
    "Cross",
    "Dynamic",
    "Hybrid",
    "Knobs",
    "Layer",
    "NoStore",
    "Sliding",
    "Static",
    "Step",
    "Store",
    "View",
    "named_store",
]
