"""Every exact store gives the logits of a plain decoder that runs each text alone, whatever is done to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from exact_members import AllCodes, AllPages, DropPadding, ExactBlocks, HalfAndHalf, KeepAll, ReadAll
from hypothesis import HealthCheck, given, settings
from scenarios import (
    VOCAB,
    Append,
    Crop,
    Fork,
    Interrupt,
    Reorder,
    Reset,
    Scenario,
    decoder,
    expected,
    scenarios,
)

from kvlab import Cache, CacheError, Dynamic, SinkRecent, Sliding, TopK
from kvlab.codecs import Codec
from kvlab.selection import Strided
from kvlab.stores.sliding import RingLayer

TOLERANCE = 1e-10  # float64 rounding; logits are about 3 in size

Knobs = Callable[[Scenario], dict[str, Any]]  # arguments of Cache


def static(scenario: Scenario, **knobs: Any) -> dict[str, Any]:
    return {"store": "static", "capacity": scenario.capacity, "batch": scenario.batch, **knobs}


def hybrid(scenario: Scenario, **knobs: Any) -> dict[str, Any]:
    return static(scenario, **knobs) | {"store": "hybrid"}


def single(plain_keys: bool = False) -> Codec:
    """A codec of single tokens, which rings take."""
    return ExactBlocks(1, 0, 0, plain_keys)


# A new exact store, or a setting of a knob that loses nothing, joins with one line.
STORES: dict[str, Knobs] = {
    "none": lambda s: {"store": "none"},
    "dynamic": lambda s: {"store": "dynamic"},
    "dynamic, growth 1": lambda s: {"store": Dynamic(growth=1.0)},
    "static": lambda s: static(s),
    "codec: exact blocks": lambda s: {"codec": ExactBlocks()},
    "codec: keys stored plain": lambda s: {"codec": (ExactBlocks(plain_keys=True), None)},
    "codec: keys stored plain, static": lambda s: static(s, codec=ExactBlocks(1, 0, 0, plain_keys=True)),
    "eviction: large budget": lambda s: {"eviction": SinkRecent(0, 1000)},
    "eviction: names all, and measures": lambda s: {"eviction": KeepAll("mass")},
    "eviction: padding only": lambda s: {"eviction": DropPadding()},
    "selection: k of fewer": lambda s: {"selection": TopK(1000)},
    "selection: names all, static": lambda s: static(s, selection=ReadAll()),
    "selection: all pages": lambda s: {"selection": AllPages()},
    "selection: all pages, static": lambda s: static(s, selection=AllPages(4)),
    "selection: all pages, eviction of padding": lambda s: {
        "selection": AllPages(2),
        "eviction": DropPadding(),
    },
    "selection: all pages, blocks, plain keys": lambda s: {
        "selection": AllPages(),
        "codec": ExactBlocks(plain_keys=True),
    },
    "selection: all by their codes": lambda s: {"selection": AllCodes(), "eviction": DropPadding()},
    "selection: a pattern that allows all": lambda s: {"selection": Strided(1)},
    "selection: patterns by head, static": lambda s: static(s, selection=HalfAndHalf()),
    "hybrid": lambda s: {"store": "hybrid"},
    "hybrid, static": lambda s: hybrid(s),
    "hybrid, codec: keys stored plain": lambda s: {"store": "hybrid", "codec": single(plain_keys=True)},
    "hybrid, static, codec and selection": lambda s: hybrid(s, codec=single(), selection=ReadAll()),
    "sliding": lambda s: {"store": "sliding"},
    "sliding, growth 1": lambda s: {"store": Sliding(growth=1.0), "selection": ReadAll()},
    "sliding, codec": lambda s: {"store": "sliding", "codec": (single(), None), "selection": TopK(1000)},
    "sliding, static": lambda s: static(s) | {"store": "sliding"},
    "all knobs": lambda s: {
        "codec": ExactBlocks(1, 2, 0),
        "eviction": KeepAll("mass", plain_keys=True),
        "selection": ReadAll(),
    },
}


@dataclass
class Branch:
    """A cache, and what it has been told, row by row: token ids, None for padding."""

    cache: Cache
    rows: list[list[int | None]] = field(default_factory=list)

    def texts(self) -> list[tuple[int, ...]]:
        return [tuple(token for token in row if token is not None) for row in self.rows]


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


class Player:
    """Plays a scenario on one kind of cache, and compares after every operation."""

    def __init__(self, scenario: Scenario, knobs: Knobs):
        self.scenario, self.random = scenario, random.Random(scenario.seed)
        self.lm = decoder(scenario.config, scenario.seed)
        cache = Cache(self.lm, **knobs(scenario))
        self.branches = [Branch(cache, [[] for _ in range(scenario.batch)])]

    def play(self) -> None:
        for operation in self.scenario.operations:
            branch = self.branches[operation.branch % len(self.branches)]
            match operation:
                case Append(_, tokens, padding):
                    self.append(branch, tokens, padding)
                case Interrupt():
                    self.interrupt(branch, operation)
                case Fork() if len(self.branches) < 3:
                    self.branches.append(Branch(branch.cache.fork(), [list(row) for row in branch.rows]))
                case Crop(_, to):
                    self.crop(branch, to % (len(branch.rows[0]) + 1))
                case Reorder(_, rows) if branch.rows[0]:
                    branch.cache.reorder(list(rows))
                    branch.rows = [list(branch.rows[row]) for row in rows]
                case Reset():
                    branch.cache.reset()
                    branch.rows = [[] for _ in branch.rows]
            self.count(branch)
        for branch in self.branches:  # whatever was done to one must not show in another
            self.append(branch, 1, ((0, True),) * self.scenario.batch)

    def append(self, branch: Branch, tokens: int, padding: tuple[tuple[int, bool], ...]) -> None:
        mask = torch.ones(len(branch.rows), tokens, dtype=torch.bool)
        for row, (count, left) in enumerate(padding):
            columns = range(tokens) if left else self.random.sample(range(tokens), tokens)
            mask[row, list(columns[: min(count, tokens)])] = False
        ids = torch.tensor([[self.random.randrange(VOCAB) for _ in range(tokens)] for _ in branch.rows])
        given = None if mask.all() and self.random.random() < 0.5 else mask
        if branch.cache.remaining is not None and tokens > branch.cache.remaining:
            with pytest.raises(CacheError, match="capacity"):
                self.lm(ids, branch.cache, given)
            return
        logits = self.lm(ids, branch.cache, given)
        for row, new, real in zip(branch.rows, ids.tolist(), mask.tolist(), strict=True):
            row += [token if is_real else None for token, is_real in zip(new, real, strict=True)]
        self.compare(branch, logits, mask)

    def crop(self, branch: Branch, to: int) -> None:
        """A ring cannot go back to where the window begins before the oldest token that it holds."""
        left = [row[:to] for row in branch.rows]
        window = self.scenario.config.sliding_window or 0
        for was, row in zip(branch.rows, left, strict=True):
            before, after = (len([token for token in x if token is not None]) for x in (was, row))
            seen_next, held = range(after)[-window + 1 :], range(before)[-window + 1 :]
            if _rings(branch.cache) and window > 1 and not set(seen_next) <= set(held):
                with pytest.raises(CacheError, match="have forgotten"):
                    branch.cache.crop(to)
                return
        branch.cache.crop(to)
        branch.rows = left

    def interrupt(self, branch: Branch, operation: Interrupt) -> None:
        block = self.lm.layers[operation.layer % len(self.lm.layers)]
        module = block.mlp if operation.settled else block.self_attn
        if branch.cache.remaining is not None and operation.tokens > branch.cache.remaining:
            return
        hook = module.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            self.lm(torch.full((len(branch.rows), operation.tokens), 5), branch.cache)
        hook.remove()

    def compare(self, branch: Branch, logits: torch.Tensor, mask: torch.Tensor) -> None:
        for row, text in enumerate(branch.texts()):
            new = int(mask[row].sum())
            if new:
                wanted = expected(self.scenario.config, self.scenario.seed, text)[-new:]
                error = np.abs(logits[row, mask[row]].numpy() - wanted).max()
                place = f"row {row}, tokens {len(text) - new} to {len(text) - 1}"
                assert error <= TOLERANCE, f"logits are off by {error:.2g} in {place}"

    def count(self, branch: Branch) -> None:
        lengths = [len(text) for text in branch.texts()]
        if branch.rows[0]:
            assert branch.cache.tokens_seen.tolist() == lengths
            cache, kept = branch.cache, lengths
            if cache.kind.recomputes:
                kept = [0] * len(lengths)
            elif all(isinstance(layer, RingLayer) for layer in cache.layers):
                kept = [min(length, cache.config.sliding_window - 1) for length in lengths]
            assert cache.tokens_stored.tolist() == kept


def _rings(cache: Cache) -> bool:
    return any(isinstance(layer, RingLayer) for layer in cache.layers)


def all_sliding(scenario: Scenario) -> Scenario:
    """The same with a window in every layer."""
    config = scenario.config
    window = config.sliding_window or (1, 2, 3, 4, 7, 50)[scenario.seed % 6]
    types = ("sliding",) * config.num_hidden_layers
    return replace(scenario, config=config.replace(layer_types=types, sliding_window=window))


@pytest.mark.parametrize("name", STORES)
@settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(scenario=scenarios())
def test_logits_are_those_of_the_plain_decoder(name: str, scenario: Scenario) -> None:
    Player(all_sliding(scenario) if name.startswith("sliding") else scenario, STORES[name]).play()
