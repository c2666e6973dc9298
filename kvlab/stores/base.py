"""The store knob: where do the entries of one layer live, and how does the store grow?

One attention call passes through a layer in two phases. `append` takes the new keys and values and
returns a view of the past plus the exact chunk; after attention `settle` evicts, and then encodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from kvlab.codecs.base import Codec
from kvlab.eviction.base import Eviction
from kvlab.selection.base import Selection

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.stores.index import Index
    from kvlab.stores.ring import Turn

FREE = -1  # the ledger's word for a slot that holds no token: padding, or never written


@dataclass
class Step:
    """What one forward call is about, the same for every layer."""

    ids: Tensor  # [batch, tokens] what the model computes in this step
    positions: Tensor  # [batch, tokens] position of each new token in its text; FREE: padding
    slots: Tensor  # [tokens] where a static store writes them
    ledger: Tensor  # [batch, 1, slots] positions of all entries, the new ones included
    in_order: bool  # no padding, nothing dropped, slot i holds position i: masks can be implied
    ring: Turn | None = None  # what it does to the rings of layers with a window, where the store has rings
    plans: dict[object, object] = field(default_factory=dict)  # what layers work out once for all of them

    @property
    def tokens(self) -> int:
        return self.positions.shape[1]

    def shared(self, window: int | None) -> Tensor:
        """Positions of the entries, `[batch, 1, slots]`, that all layers with such a window share."""
        return self.ledger if window is None or self.ring is None else self.ring.positions


class Reader(Protocol):
    """What a view needs of a stream."""

    def read(self) -> Tensor: ...

    def exact(self) -> Tensor | None:
        """All entries where they lie, `[batch, kv_heads, slots, head_dim]`; None: they must be decoded."""

    def gather(self, rows: Tensor) -> tuple[Tensor, int]: ...

    def span(self, start: int, stop: int) -> Tensor: ...

    @property
    def nbytes(self) -> int: ...


@dataclass
class View:
    """The entries that a query may read: the past, and the new tokens exactly as they came."""

    keys: Reader
    values: Reader
    positions: Tensor  # [batch, 1 or kv_heads, slots]; FREE: nothing to see here
    # Rotary positions of the queries [batch, 1 or kv_heads, tokens] and of the keys
    # [batch, 1 or kv_heads, slots], where keys come unrotated; None: they were rotated when written.
    rope: tuple[Tensor, Tensor] | None = None
    bias: Tensor | None = None  # [batch, 1 or kv_heads, slots] on the scores: log count of merged entries
    mass: Tensor | None = None  # [batch, kv_heads, slots] attention received in this step, for an eviction
    bytes_read: int = 0  # what `read` and `gather` have read so far
    heads: int = 0  # KV heads, set where there is a selection
    index: Index | None = None  # what the selection of this layer keeps of each page, where it keeps any

    def read(self) -> tuple[Tensor, Tensor]:
        """All keys and values, decoded, each `[batch, kv_heads, slots, head_dim]`."""
        return self.keys.read(), self.values.read()

    def span(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots `start` to `stop - 1`, decoded; no others are."""
        return self.keys.span(start, stop), self.values.span(start, stop)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at `rows [batch, kv_heads, n]`, decoded; nothing else is read."""
        keys, read_keys = self.keys.gather(rows)
        values, read_values = self.values.gather(rows)
        self.bytes_read += read_keys + read_values
        return keys, values


@dataclass
class Knobs:
    """What the cache was asked for, as it applies to one layer; identities are None."""

    key_codec: Codec | None = None
    value_codec: Codec | None = None
    eviction: Eviction | None = None
    selection: Selection | None = None
    blockwise: int | None = None  # slots that a single token decodes at a time; None: all at once
    kernels: bool | None = None  # Triton's: on CUDA (None), never (False), in its interpreter too (True)

    @property
    def plain_keys(self) -> bool:
        """Whether keys are stored unrotated, and rotated when they are read."""
        return any(knob is not None and knob.plain_keys for knob in (self.key_codec, self.eviction))


class Layer(ABC):
    """The cache of one layer. Tensors are `[batch, kv_heads, tokens or slots, head_dim]`."""

    knobs: Knobs
    bytes_read: int | None = None  # by the last attention call, scoring included; None: all that it could
    entries_read: int | None = None  # keys, over batch and KV heads; None: all
    served: str = "no step was taken"  # what computed the last attention call, in a sentence
    index: Index | None = None  # of a selection that needs one; it follows the entries

    @abstractmethod
    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        """Take the new keys and values; return them exactly, after everything that is kept."""

    @abstractmethod
    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        """After attention: let the eviction choose, free what it drops, and encode what is due."""

    def filled(self, view: View, step: Step) -> int:
        """Slots in use, those of the open step included; what lies behind them is room."""
        return view.positions.shape[-1]

    def commit(self) -> None:  # noqa: B027 (most layers are done when they have settled)
        """All layers have settled: what must not be lost if one of them fails may be overwritten now."""

    def refuse_crop(self, seen: Tensor, wanted: Tensor) -> None:  # noqa: B027 (most can always be cropped)
        """Raise ValueError where going back from `seen [batch]` tokens to `wanted` needs what is gone."""

    @abstractmethod
    def crop(self, slots: int, tokens: Tensor) -> None:
        """Keep what the first `slots` arrivals brought: positions below `tokens [batch]` of each row."""

    @abstractmethod
    def drop_unsettled(self, slots: int, tokens: Tensor) -> None:
        """Forget what a step brought that never came to its end; `slots` and `tokens` as in `crop`."""

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was."""

    @abstractmethod
    def fork(self) -> Layer:
        """A copy that shares no storage."""

    def positions(self, ledger: Tensor) -> Tensor:
        """The position that each slot holds, `[batch, 1 or kv_heads, slots]`; `ledger`: the shared one."""
        return ledger

    def stored(self, ledger: Tensor) -> Tensor:
        """Entries held per sequence and head, `[batch, 1 or kv_heads]`; `ledger`: the shared one."""
        return (self.positions(ledger) >= 0).sum(dim=-1)

    @abstractmethod
    def stored_bytes(self, slots: int) -> int:
        """Every byte needed to read back what is kept, where `slots` arrivals are settled."""

    def full_read_bytes(self, slots: int) -> int:
        """Bytes that an attention call over everything reads."""
        return self.stored_bytes(slots)

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Every tensor held, slack included."""


class Store(ABC):
    """A way to keep entries: makes the layers of a cache.

    A new store is one file with a subclass and its layer, and one line in `kvlab.stores.STORES`.
    """

    name: str
    capacity: int | None = None  # slots; None: as many as memory holds
    recomputes: bool = False  # keeps token ids only: every step computes all of them again
    compilable: bool = False  # fixed shapes, in-place writes: a step can be compiled
    batch: int | None = None  # sequences it was allocated for; None: as many as come first

    @abstractmethod
    def layer(
        self, index: int, config: Config, knobs: Knobs, device: torch.device, dtype: torch.dtype
    ) -> Layer:
        """The empty cache of layer `index`."""

    def ring(self, config: Config) -> int | None:
        """Slots of the rings that the layers with a window have; None: there are no rings."""
        return None

    def refuse(  # noqa: B027 (most stores take everything)
        self, knobs: Knobs, config: Config, index: int
    ) -> None:
        """Raise ValueError, in one clear sentence, where layer `index` cannot work with these knobs."""
