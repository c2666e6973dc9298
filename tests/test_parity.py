"""Every exact store gives the logits of a plain decoder that runs each text alone, whatever is done to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from exact_members import DropPadding, ExactBlocks, KeepAll, ReadAll
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

from kvlab import Cache, CacheError, Dynamic, SinkRecent, TopK

TOLERANCE = 1e-10  # float64 rounding; logits are about 3 in size

Knobs = Callable[[Scenario], dict[str, Any]]  # arguments of Cache


def static(scenario: Scenario, **knobs: Any) -> dict[str, Any]:
    return {"store": "static", "capacity": scenario.capacity, "batch": scenario.batch, **knobs}


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
                    to %= len(branch.rows[0]) + 1
                    branch.cache.crop(to)
                    branch.rows = [row[:to] for row in branch.rows]
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
            stored = [0] * len(lengths) if branch.cache.kind.recomputes else lengths
            assert branch.cache.tokens_stored.tolist() == stored


@pytest.mark.parametrize("name", STORES)
@settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(scenario=scenarios())
def test_logits_are_those_of_the_plain_decoder(name: str, scenario: Scenario) -> None:
    Player(scenario, STORES[name]).play()
