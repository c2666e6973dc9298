"""`kvlab.plan` for every shape that the package knows, against a real cache of it, which needs no weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kvlab
from kvlab import Cache
from kvlab.measure.growth import append, shell
from kvlab.model.config import Config
from kvlab.zoo import SHAPES, names

SMALL = 64 * 10**6  # bytes: a window is crossed where its cache is no larger, else a narrower one
NARROW = 16
STORES: dict[str, dict[str, Any]] = {
    "none": {"store": "none"},
    "dynamic": {"store": "dynamic"},
    "static": {"store": "static", "capacity": 20},
    "sliding": {"store": "sliding"},
    "sliding, fixed": {"store": "sliding", "capacity": 20},
    "hybrid": {"store": "hybrid"},
    "hybrid, fixed": {"store": "hybrid", "capacity": 20},
}


def same_bytes(config: Config, prompt: int, tokens: int, **knobs: Any) -> None:
    """Stored and allocated bytes of a cache that took a prompt at once, and then token by token."""
    cache = Cache(shell(config, torch.float16, torch.device("cpu")), **knobs)  # type: ignore[arg-type]
    append(cache, prompt)
    for _ in range(tokens - prompt):
        append(cache, 1)
    found = kvlab.plan(config, tokens, bits=16, prompt=prompt, **knobs)
    assert (found.cache_bytes, found.allocated_bytes) == (cache.nbytes, cache.allocated_bytes)
    for mine, real in zip(found.layers, cache.layers, strict=True):
        assert mine.stored_bytes == real.stored_bytes(cache.used)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_in_every_store_holds_what_is_planned(name: str, store: str) -> None:
    config = SHAPES[name]
    if store.startswith("sliding") and "full" in config.layer_types:
        with pytest.raises(ValueError, match="layers that see everything"):
            kvlab.plan(config, 9, **STORES[store])
        with pytest.raises(ValueError, match="it sees everything"):
            Cache(shell(config, torch.float16, torch.device("cpu")), **STORES[store])  # type: ignore[arg-type]
        return
    for prompt, tokens in ((9, 9), (9, 10), (3, 14)):
        same_bytes(config, prompt, tokens, **STORES[store])


@pytest.mark.parametrize("name", [name for name, config in SHAPES.items() if config.sliding_window])
def test_and_so_beyond_its_window(name: str) -> None:
    config = SHAPES[name]
    window = config.sliding_window
    assert window is not None
    if kvlab.plan(config, window, bits=16).cache_bytes > SMALL:
        config, window = config.replace(name=f"{name}, narrow", sliding_window=NARROW), NARROW
    for prompt, tokens in ((window - 2, window + 3), (window + 5, window + 6), (1, NARROW)):
        for store in ("dynamic", "hybrid"):
            same_bytes(config, prompt, tokens, store=store)
        same_bytes(config, prompt, tokens, store="hybrid", capacity=window + 9)
        same_bytes(config, prompt, tokens, store="static", capacity=window + 9)


def test_every_model_that_can_be_loaded_is_among_them() -> None:
    """But the translator, an encoder–decoder: `test_stores_cross.py` plans it."""
    assert set(names()) - set(SHAPES) == {"translator"}
