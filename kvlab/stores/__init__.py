"""Stores: where the entries live. One idea a file."""

from kvlab.stores.base import FREE, Knobs, Layer, Step, Store, View
from kvlab.stores.dynamic import Dynamic
from kvlab.stores.none import NoStore
from kvlab.stores.static import Static

STORES: dict[str, type[Store]] = {store.name: store for store in (NoStore, Dynamic, Static)}


def named_store(name: str, capacity: int | None = None, batch: int = 1) -> Store:
    """The store that goes by `name`.

    Raises:
        ValueError: unknown name, or a capacity that is missing or has no use.
    """
    if name not in STORES:
        raise ValueError(f"there is no store {name!r}; choose one of {', '.join(map(repr, STORES))}.")
    if name == "static":
        if capacity is None:
            raise ValueError('store="static" is allocated at once: say for how many tokens, capacity=….')
        return Static(capacity=capacity, batch=batch)
    if capacity is not None:
        raise ValueError(f'store="{name}" has no fixed capacity; leave capacity out, or use store="static".')
    return STORES[name]()


__all__ = [
    "FREE",
    "STORES",
    "Dynamic",
    "Knobs",
    "Layer",
    "NoStore",
    "Static",
    "Step",
    "Store",
    "View",
    "named_store",
]
