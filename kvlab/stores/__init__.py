"""Stores: where the entries live. One idea a file."""

from kvlab.stores.base import FREE, Knobs, Layer, Step, Store, View
from kvlab.stores.dynamic import Dynamic
from kvlab.stores.none import NoStore
from kvlab.stores.static import Static

STORES: dict[str, type[Store]] = {store.name: store for store in (NoStore, Dynamic, Static)}

__all__ = ["FREE", "STORES", "Dynamic", "Knobs", "Layer", "NoStore", "Static", "Step", "Store", "View"]
