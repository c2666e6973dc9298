"""Lesson 10: transformers' caches on Gemma's own weights: what they hold, and where they overflow.

transformers belongs to the `interop` extra; `l08_peer.peer` says so where it is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvlab.stores.buffer import distinct_storage_bytes

from .l08_peer import Peer


def held(cache: Any) -> tuple[int, int]:
    """Bytes of a transformers cache: what its tensors show, and the memory that they keep."""
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return sum(t.nbytes for t in tensors), distinct_storage_bytes(tensors)


def fill(cache: Any, config: Any, tokens: int) -> Any:
    """Random keys and values of `tokens` tokens into every layer, as one forward call brings them."""
    shape = (1, config.num_key_value_heads, tokens, config.head_dim)
    for layer in range(config.num_hidden_layers):
        cache.update(torch.randn(shape), torch.randn(shape), layer)
    return cache


def counted(config: Any, name: str, tokens: int, largest: int = 4096) -> int:
    """Bytes of the tensors of one form (the names of `l10.FORMS`) in transformers."""
    from transformers import DynamicCache, StaticCache

    made = {
        "dynamic, sliding": lambda: DynamicCache(config=config),
        "dynamic, all full": DynamicCache,
        "static, capacity = tokens": lambda: StaticCache(config=config, max_cache_len=tokens),
        "static, capacity 4,096": lambda: StaticCache(config=config, max_cache_len=largest),
    }[name]()
    return held(fill(made, config, tokens))[0]


def after_prefill(config: Any, tokens: int) -> list[tuple[int, int]]:
    """`held` of a `DynamicCache` after one prefill of `tokens` tokens, and after one token more."""
    from transformers import DynamicCache

    cache = fill(DynamicCache(config=config), config, tokens)
    found = [held(cache)]
    fill(cache, config, 1)
    return [*found, held(cache)]


@dataclass(frozen=True)
class Overflow:
    """A loop over a `StaticCache` that was too small."""

    words: list[int]  # ids before the error
    error: str
    moved: list[int]  # layers whose keys the refused step changed


def overflow(hf: Peer, ids: Sequence[int], new: int, capacity: int) -> Overflow:
    """Greedy decoding by hand, `new` tokens or until an error."""
    cache, given, found = hf.cache(capacity), list(ids), list[int]()
    before: list[Any] = []
    for _ in range(new):
        before = [layer.keys.clone() for layer in cache.layers if layer.is_initialized]
        try:
            given = [int(hf.logits(given, cache).argmax())]
        except (IndexError, RuntimeError) as error:
            now = [layer.keys for layer in cache.layers]
            moved = [i for i, keys in enumerate(now) if not torch.equal(keys, before[i])]
            return Overflow(found, f"{type(error).__name__}: {error}", moved)
        found += given
    return Overflow(found, "", [])


def errors_of_static(hf: Peer, ids: Sequence[int], capacity: int) -> list[float]:
    """A text token by token over a `StaticCache`: each largest logit error against no cache at all."""
    wanted = hf.model(torch.tensor([list(ids)]), use_cache=False).logits[0]  # [tokens, vocab]
    cache = hf.cache(capacity)
    return [float((hf.logits([i], cache) - row).abs().max()) for i, row in zip(ids, wanted, strict=True)]


def made_by_generate(hf: Peer, ids: Sequence[int], implementation: str) -> str:
    """The class of the cache that `generate` makes when it is asked for an implementation by name."""
    from .l04_libraries import quiet

    with quiet():
        said = hf.model.generate(
            torch.tensor([list(ids)]),
            max_new_tokens=2,
            do_sample=False,
            return_dict_in_generate=True,
            cache_implementation=implementation,
        )
    return type(said.past_key_values).__name__
