"""`kvlab.plan`: the bytes of a cache before it is made, and what fits on a device.

Every number follows from shapes. For a model that kvlab can make, stored and allocated bytes are those of
the real cache (`Cache.nbytes`, `Cache.allocated_bytes`). Activations come on top; they are not planned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from kvlab.measure.bytes import StepBytes
from kvlab.measure.outline import CachedLayer, Outline, outline

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

STORES = ("none", "dynamic", "static", "sliding", "hybrid", "cross")
LEDGER = 4  # bytes of a position, one for each slot of the whole model
GROWTH = 2  # how much room a full dynamic store gets


@dataclass(frozen=True)
class LayerPlan:
    """One layer's cache over the whole batch, in bytes; slots are those of one sequence."""

    window: int | None  # tokens that it sees; None: all
    slots: int  # entries that it keeps
    stored_bytes: int
    allocated_bytes: int
    read_bytes: int  # by one decode step


@dataclass(frozen=True)
class Plan:
    """What a model and its cache hold after `tokens` tokens in each of `batch` sequences. Bytes are exact."""

    model: Outline
    tokens: int
    batch: int
    bits: float  # of one number in the cache, its share of scales included
    weight_bits: float
    store: str
    capacity: int | None  # slots of a store that is allocated at once
    prompt: int | None  # tokens that came first and together; None: all
    source: int = 0  # tokens of each source, in a cross store

    @cached_property
    def layers(self) -> tuple[LayerPlan, ...]:
        """The cache, layer by layer."""
        made: dict[CachedLayer, LayerPlan] = {}  # most layers are alike
        for layer in self.model.layers:
            if layer not in made:
                made[layer] = self._layer(layer)
        return tuple(made[layer] for layer in self.model.layers)

    def _layer(self, layer: CachedLayer) -> LayerPlan:
        kept, held, read = _slots(self, layer.window)
        size = self.batch * layer.numbers
        stored, allocated, moved = (_bytes(n * size, self.bits) for n in (kept, held, read))
        return LayerPlan(layer.window, kept, stored, allocated, moved)

    @property
    def cross_bytes(self) -> int:
        """Of the entries of the source, which are written once: stored, allocated, and read by a step."""
        return _bytes(self.batch * self.source * self.model.cross, self.bits) if self.source else 0

    @property
    def cache_bytes(self) -> int:
        """Stored: all that is needed to read the entries back, those of a source included."""
        return sum(layer.stored_bytes for layer in self.layers) + self.cross_bytes

    @property
    def allocated_bytes(self) -> int:
        """Held for the cache: unused capacity and room to grow included."""
        return sum(layer.allocated_bytes for layer in self.layers) + self.cross_bytes

    @property
    def weight_bytes(self) -> int:
        """All weights, a tied embedding table once."""
        return _bytes(self.model.parameters, self.weight_bits)

    @property
    def rest_bytes(self) -> int:
        """Positions, the ids of a source, and the rotary frequencies (float32; float64 in a model of 64)."""
        slots = self.tokens if self.capacity is None else self.capacity
        frequency = 8 if self.weight_bits == 64 else 4
        return self.batch * (slots + self.source) * LEDGER + self.model.rotary * frequency

    @property
    def total_bytes(self) -> int:
        """Weights, what is allocated for the cache, and the rest. Activations come on top."""
        return self.weight_bytes + self.allocated_bytes + self.rest_bytes

    @property
    def bytes_per_token(self) -> int:
        """What one more token of one sequence adds to the stored bytes."""
        one = replace(self, batch=1, prompt=None)
        more = replace(one, tokens=self.tokens + 1, capacity=self.capacity and self.capacity + 1)
        return more.cache_bytes - one.cache_bytes

    @property
    def step(self) -> StepBytes:
        """Bytes that one decode step moves: the one after which `tokens` tokens have been seen."""
        written = 0 if self.store == "none" else _bytes(self.batch * self.model.numbers, self.bits)
        return StepBytes(
            weights=_bytes(self.model.read(self.batch), self.weight_bits),
            cache_read=sum(layer.read_bytes for layer in self.layers) + self.cross_bytes,
            cache_written=written,
        )

    def fits(self, device_bytes: float) -> bool:
        """Whether all of it goes into so many bytes."""
        return self.total_bytes <= device_bytes

    def tokens_that_fit(self, device_bytes: float) -> int | None:
        """The longest text that fits, in each of `batch` sequences; None: any (all layers have windows)."""
        if self._at(2**40).bytes_per_token == 0 and self._at(2**40).allocated_bytes < device_bytes:
            return None
        return _largest(lambda n: self._at(n).fits(device_bytes))

    def sequences_that_fit(self, device_bytes: float) -> int:
        """How many sequences of `tokens` tokens fit."""
        return _largest(lambda n: replace(self, batch=n).fits(device_bytes))

    def _at(self, tokens: int) -> Plan:
        """The same with another length, and a capacity of just that."""
        return replace(self, tokens=tokens, capacity=self.capacity and tokens)

    def __repr__(self) -> str:
        size = "" if self.capacity is None else f" of {self.capacity:,}"
        return (
            f"<Plan {self.model.name}, {self.tokens:,} tokens × {self.batch:,}, {self.bits:g} bits, "
            f"{self.store}{size}: cache {_gb(self.cache_bytes)}, weights {_gb(self.weight_bytes)}>"
        )


def plan(
    model: str | Config | Decoder | Outline,
    tokens: int,
    batch: int = 1,
    bits: float = 16,
    window: int | None = None,
    store: str = "dynamic",
    capacity: int | None = None,
    prompt: int | None = None,
    weight_bits: float = 16,
    source: int | None = None,
) -> Plan:
    """Count the bytes of a cache, and of the model beside it, without making either.

    Args:
        model: a preset ("llama2-7b"), a `Config`, a loaded model, or an `Outline` of your own.
        tokens: in each sequence.
        batch: sequences.
        bits: of one number in the cache. With codes and scales: all of them over the numbers they stand for.
        window: give every layer this window; None: those that the model has. Needs a store that uses them.
        store: "none", "dynamic", "static", "sliding", "hybrid" or "cross", as for `kvlab.Cache`.
            "sliding" and "hybrid" have a ring in a layer with a window, the others keep all tokens.
        capacity: slots that "static" (None: as many as tokens) or "hybrid" allocates at once.
        prompt: tokens that came first and together, the others one by one, so that a store which grows by
            doubling holds slack; None: all came together.
        weight_bits: of one weight.
        source: tokens of the source that an encoder has read, in each sequence; with store="cross" only.

    Raises:
        ValueError: an unknown preset or store, or numbers that contradict each other.
    """
    known = outline(model)
    _check(tokens=tokens, batch=batch, bits=bits, weight_bits=weight_bits)
    if store not in STORES:
        raise ValueError(f"there is no store {store!r}; choose one of {', '.join(map(repr, STORES))}.")
    if window is not None:
        _check(window=window)
        if store not in ("sliding", "hybrid"):
            raise ValueError(f'a {store} store keeps what no window shows; use store="hybrid" with window=….')
        known = replace(known, layers=tuple(replace(layer, window=window) for layer in known.layers))
    if store == "sliding" and known.slides < len(known.layers):
        raise ValueError(
            f'{known.name} has layers that see everything; use store="hybrid", or give window=….'
        )
    if (store == "cross") != (source is not None) or (store == "cross" and not known.cross):
        raise ValueError(
            'store="cross" and source=… go together, with a model that has an encoder '
            f"({known.name} has {'one' if known.cross else 'none'})."
        )
    if source is not None:
        _check(source=source)
    if store == "static" and capacity is None:
        capacity = tokens
    if capacity is not None and store in ("none", "dynamic", "cross"):
        raise ValueError(f"a {store} store has no capacity; leave it out, or use a static one.")
    if capacity is not None and capacity < tokens:
        raise ValueError(f"{tokens:,} tokens do not fit into a capacity of {capacity:,}; make it larger.")
    if prompt is not None and not 1 <= prompt <= tokens:
        raise ValueError(f"prompt={prompt} must be from 1 to the {tokens:,} tokens that it is part of.")
    return Plan(known, tokens, batch, bits, weight_bits, store, capacity, prompt, source or 0)


def _slots(plan: Plan, window: int | None) -> tuple[int, int, int]:
    """Entries of one sequence that a layer keeps, has room for, and reads in one step."""
    tokens, capacity = plan.tokens, plan.capacity
    if plan.store == "none":
        return 0, 0, 0
    if window is None or plan.store in ("dynamic", "static", "cross"):
        room = _room(tokens, plan.prompt) if capacity is None else capacity
        return tokens, room, tokens if capacity is None else capacity
    ring = window if capacity is None else min(window, capacity)
    kept = min(tokens, window - 1)  # those that the next token will still see
    if capacity is not None:
        return kept, ring, ring
    return kept, min(ring, _room(tokens, plan.prompt)), min(tokens, ring)


def _room(tokens: int, prompt: int | None) -> int:
    """Slots that a growing store has allocated: its first chunk exactly, then by doubling."""
    room = tokens if prompt is None else prompt
    while room < tokens:
        room *= GROWTH
    return room


def _bytes(numbers: int, bits: float) -> int:
    return math.ceil(Fraction(bits) * numbers / 8)


def _check(**given: float) -> None:
    for name, value in given.items():
        whole = name in ("bits", "weight_bits") or value == int(value)
        if not value > 0 or not whole:
            raise ValueError(f"{name}={value} must be {'a whole number, ' if not whole else ''}more than 0.")


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest n from 0 for which `fits(n)`, where all smaller ones fit, too."""
    high = 1
    while fits(high):
        high *= 2
    low = high // 2  # fits, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
