"""The cache of a whole model: one layer store per layer, one ledger of positions, and the four knobs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.codecs.base import Codec, Stream
from kvlab.eviction.base import Eviction
from kvlab.selection.base import Selection
from kvlab.stores import FREE, Knobs, Step, Store, named_store
from kvlab.stores.buffer import distinct_storage_bytes
from kvlab.stores.dynamic import DynamicLayer
from kvlab.stores.ring import Turn, turn

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

CodecPair = Codec | tuple[Codec | None, Codec | None] | None


class CacheError(ValueError):
    """A cache was asked for something that it cannot do; nothing was changed."""


class Cache:
    """Keys and values of the tokens that a model has seen, `[batch, kv_heads, tokens, head_dim]` a layer.

    Args:
        lm: the model it is for; gives layers, heads, device and dtype.
        store: "none", "dynamic", "static" or a `Store`: where entries live.
        capacity: slots of a static store.
        codec: how entries are written; one for both streams, or a pair (keys, values). None: exact.
        eviction: which entries stay. None: all.
        selection: which entries a query reads. None: all.
        batch: sequences of a static store; a dynamic one takes the batch that comes first.
        blockwise: how many entries of a layer a single token decodes at a time; the rest stays packed, so
            that a step needs memory for one block instead of a layer. None: the whole layer at once.
        kernels: None: where there is CUDA, steps of one token go through Triton's kernels if one fits (KIVI's
            codes; pages that a selection picks); `explain` says which do. False: never. True: in Triton's
            interpreter too, where TRITON_INTERPRET=1: very slow, to check them without a GPU.

    Raises:
        CacheError: unknown store, missing or needless capacity, or knobs that cannot work together.
    """

    def __init__(
        self,
        lm: Decoder,
        store: str | Store = "dynamic",
        capacity: int | None = None,
        codec: CodecPair = None,
        eviction: Eviction | None = None,
        selection: Selection | None = None,
        batch: int = 1,
        blockwise: int | None = None,
        kernels: bool | None = None,
    ):
        if blockwise is not None and blockwise < 1:
            raise CacheError(f"blockwise is the entries decoded at a time, at least 1, not {blockwise}.")
        if isinstance(store, Store) and capacity is not None:
            raise CacheError(f"leave capacity out: {type(store).__name__}(…) brings its own, or has none.")
        self.config = lm.config
        self.device, self.dtype = lm.device, lm.dtype
        self.kind = store if isinstance(store, Store) else _checked(named_store, store, capacity, batch)
        self.codec, self.eviction, self.selection, self.blockwise = codec, eviction, selection, blockwise
        self.kernels = kernels
        for one in codec if isinstance(codec, tuple) else (codec,):
            _expect("codec", one, Codec, "Int8(), a pair of them (keys, values)")
            if one is not None:
                _checked(one.refuse, self.config)
        _expect("eviction", eviction, Eviction, "SnapKV(128)")
        _expect("selection", selection, Selection, "Quest(16, 4)")
        knobs = [self._knobs(i) for i in range(self.config.num_hidden_layers)]
        for i, of_layer in enumerate(knobs):
            _checked(self.kind.refuse, of_layer, self.config, i)
            if of_layer.selection is not None:
                _checked(of_layer.selection.refuse, of_layer, self.config.num_key_value_heads)
        self.layers = [
            self.kind.layer(i, self.config, of_layer, self.device, self.dtype)
            for i, of_layer in enumerate(knobs)
        ]
        self._clear()

    def _knobs(self, layer: int) -> Knobs:
        pair = self.codec if isinstance(self.codec, tuple) else (self.codec, self.codec)
        streams: tuple[Stream, Stream] = ("keys", "values")
        keys, values = (c and c.at(layer, stream) for c, stream in zip(pair, streams, strict=True))
        return Knobs(
            key_codec=keys,
            value_codec=values,
            eviction=self.eviction and self.eviction.at(layer),
            selection=self.selection and self.selection.at(layer),
            blockwise=self.blockwise,
            kernels=self.kernels,
        )

    def _clear(self) -> None:
        batch, capacity = self.kind.batch, self.kind.capacity
        self.used = 0  # slots that have been filled since the start, padding included
        self._padded = False  # whether any of them is padding
        self._open = False  # a step was begun and has not been committed
        self.ledger: Tensor | None = None  # [batch, 1, slots] position of each arrival
        self._seen = torch.zeros(0, dtype=torch.int32)  # [batch] tokens, padding excluded
        self._next = torch.zeros(1, dtype=torch.int64)  # `used`, where compiled steps can read it
        self._ids: Tensor | None = None  # [batch, slots] what store="none" computes from
        self.source: Tensor | None = None  # [batch, source] ids an encoder has read, int32; FREE: padding
        if batch is not None:
            self._start(batch, capacity or 0)

    def _start(self, batch: int, slots: int) -> None:
        self.ledger = torch.full((batch, 1, slots), FREE, dtype=torch.int32, device=self.device)
        self._seen = torch.zeros(batch, dtype=torch.int32, device=self.device)
        self._next = torch.zeros(1, dtype=torch.int64, device=self.device)

    # --- one step of the model ---

    @contextmanager
    def step(self, ids: Tensor, mask: Tensor | None = None) -> Iterator[Step]:
        """A whole step: begun, and committed at the end of the `with`, or undone where it raises (an
        interrupt too: some layers have the new tokens by then, and some do not). Raises as `begin` does.
        """
        step = self.begin(ids, mask)
        try:
            yield step
        except BaseException:
            self.undo()
            raise
        self.commit(step)

    def begin(self, ids: Tensor, mask: Tensor | None = None) -> Step:
        """Open a step for `ids [batch, tokens]`; `mask [batch, tokens]` is False where a token is padding.

        Raises:
            CacheError: wrong shapes, another batch, or more tokens than the capacity has room for.
        """
        self.check(ids, mask)
        return self.open(ids, mask)

    def check(self, ids: Tensor, mask: Tensor | None = None) -> None:
        """Refuse a step that cannot be taken, before any layer writes. Python numbers only."""
        if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32) or 0 in ids.shape:
            raise CacheError(f"ids must be int64 [batch, tokens], not {ids.dtype} {tuple(ids.shape)}.")
        if mask is not None and mask.shape != ids.shape:
            raise CacheError(
                f"mask {tuple(mask.shape)} must have the shape of ids {tuple(ids.shape)}: "
                "pass it for the new tokens only, the cache remembers the padding of the earlier ones."
            )
        if mask is not None and mask.dtype != torch.bool:
            raise CacheError(f"mask must be bool, False at padding, not {mask.dtype}; use mask.bool().")
        if self._open:  # by a compiled step that raised
            self.undo()
        batch, tokens = ids.shape
        if self.ledger is not None and batch != self.ledger.shape[0]:
            raise CacheError(
                f"this cache holds {self.ledger.shape[0]} sequence(s) and was given {batch}; "
                "make a new Cache"
                + (f"(…, batch={batch})." if self.kind.batch else ", or call reset() first.")
            )
        self.require(tokens)
        if self.ledger is None:
            self._start(batch, 0)
        self._padded = self._padded or (mask is not None and not bool(mask.all()))
        self._open = True

    def undo(self) -> None:
        """Forget a step that was begun and raised half-way. What an eviction freed by then stays freed."""
        if not self.used:
            return self.reset()
        for layer in self.layers:
            layer.drop_unsettled(self.used, self._seen)
        self._open = False

    def require(self, tokens: int) -> None:
        """Raise CacheError unless there is room for so many more tokens."""
        capacity = self.kind.capacity
        if capacity is not None and self.used + tokens > capacity:
            raise CacheError(
                f"{tokens} more token(s) after {self.used} need {self.used + tokens} slots, but the capacity "
                f"is {capacity}; make the cache larger (capacity={self.used + tokens}), pass fewer tokens, "
                "or reset() it."
            )

    def open(self, ids: Tensor, mask: Tensor | None = None) -> Step:
        """The tensors of a checked step; this part can be compiled."""
        seen, ledger = self._seen, self.ledger
        assert ledger is not None  # `check` has seen to it
        if self.kind.recomputes and self._ids is not None:  # the past is computed again, so it is new
            mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
            mask = torch.cat((ledger[:, 0] >= 0, mask), dim=1)
            ids = torch.cat((self._ids, ids), dim=1)
            seen, ledger = torch.zeros_like(seen), ledger[:, :, :0]
        count = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device)
        if mask is None or not self._padded:
            positions = seen[:, None] + count
        else:
            positions = seen[:, None] + mask.cumsum(-1, dtype=torch.int32) - 1
            positions = positions.masked_fill(~mask, FREE)
        slots = self._next + count
        if self.kind.capacity is None:
            ledger = torch.cat((ledger, positions.unsqueeze(1)), dim=2)
        else:
            ledger = ledger.index_copy(2, slots, positions.unsqueeze(1))
        ring = self._turn(positions, mask is not None)
        in_order = not self._padded and self.kind.capacity is None
        return Step(ids, positions, slots, ledger, in_order, ring)

    def _turn(self, positions: Tensor, masked: bool) -> Turn | None:
        """What the step does to the rings of layers with a window, if the store has rings."""
        size, window = self.kind.ring(self.config), self.config.sliding_window
        if size is None or window is None:
            return None
        fixed = positions.shape[1] == 1 and self.kind.capacity is not None
        return turn(self._seen, positions, size, window, None if fixed else self.used, masked)

    def commit(self, step: Step) -> None:
        """Every layer has settled: from now on the new tokens are part of the past."""
        for layer in self.layers:
            layer.commit()
        self.close(step)
        self.count(step.tokens)
        if self.kind.recomputes:
            self._ids, self.used = step.ids.clone(), step.tokens  # what was passed in may be written over

    def close(self, step: Step) -> None:
        """The tensor part of `commit`, in place where the store is static; this part can be compiled."""
        self._seen.copy_(torch.maximum(self._seen, step.positions.amax(dim=-1) + 1))
        if self.kind.capacity is None:
            self.ledger = step.ledger
        else:
            self._next.add_(step.tokens)
            self.ledger.copy_(step.ledger)

    def count(self, tokens: int) -> None:
        """The Python part of `commit`."""
        self.used += tokens
        self._open = False

    # --- what users ask ---

    @property
    def tokens_seen(self) -> Tensor:
        """Tokens passed in so far, padding excluded, `[batch]`."""
        return self._seen.to("cpu", torch.int64)

    @property
    def tokens_stored(self) -> Tensor:
        """Entries held for each sequence, `[batch]`: by the layer and head that holds most."""
        if self.ledger is None:
            return torch.zeros(0, dtype=torch.int64)
        per_layer = [layer.stored(self.ledger).amax(dim=1) for layer in self.layers]
        return torch.stack(per_layer).amax(dim=0).to("cpu", torch.int64)

    @property
    def nbytes(self) -> int:
        """Stored bytes: all that is needed to read back what is kept (codes, scales, indices, residuals).

        The one ledger that the layers share (4 bytes a slot for the whole model) is `ledger_bytes`.
        """
        return sum(layer.stored_bytes(self.used) for layer in self.layers) + self._shared_bytes()

    @property
    def allocated_bytes(self) -> int:
        """Bytes of every storage held: unused capacity and room to grow included."""
        tensors = [t for layer in self.layers for t in layer.tensors()]
        return distinct_storage_bytes(tensors) + self._shared_bytes()

    @property
    def logical_bytes(self) -> int:
        """What the formula says: 2 · layers · kv_heads · head_dim · bytes of the dtype, per token seen."""
        c = self.config
        per_token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * self.dtype.itemsize
        return per_token * int(self.tokens_seen.sum())

    @property
    def ledger_bytes(self) -> int:
        """Bytes of the positions that all layers share, and of the source that an encoder has read."""
        return sum(t.nbytes for t in (self.ledger, self.source) if t is not None)

    @property
    def bytes_read(self) -> int:
        """Bytes of keys and values that the last eager step read, scoring included."""
        if not self.used:
            return 0
        return sum(
            layer.full_read_bytes(self.used) if layer.bytes_read is None else layer.bytes_read
            for layer in self.layers
        )

    def explain(self) -> list[str]:
        """What computed the attention of each layer in the last step: a kernel, or plain PyTorch and why."""
        return [layer.served for layer in self.layers]

    @property
    def remaining(self) -> int | None:
        """Slots left; None where the store grows."""
        return None if self.kind.capacity is None else self.kind.capacity - self.used

    def _shared_bytes(self) -> int:
        pairs = [(layer.knobs.key_codec, layer.knobs.value_codec) for layer in self.layers]
        codecs = {id(codec): codec for pair in pairs for codec in pair if codec}
        selections = {id(one): one for one in (layer.knobs.selection for layer in self.layers) if one}
        sharing = [*codecs.values(), *selections.values()]
        return distinct_storage_bytes([t for knob in sharing for t in knob.shared_tensors()])

    # --- what users do ---

    def fork(self) -> Cache:
        """A second cache with the same past and no storage in common: share a prefix, try two endings."""
        twin = copy.copy(self)
        twin.layers = [layer.fork() for layer in self.layers]
        for name in ("ledger", "_seen", "_next", "_ids", "source"):
            tensor = getattr(self, name)
            setattr(twin, name, None if tensor is None else tensor.clone())
        return twin

    def crop(self, n: int) -> None:
        """Roll back to the first `n` columns of ids that were passed in, padding included.

        Raises:
            CacheError: if `n` is negative or more than was passed in, or if the window of the next token
                would reach back to what a sliding layer has forgotten.
        """
        if not 0 <= n <= self.used:
            raise CacheError(
                f"crop({n}): give a number from 0 to {self.used}, the columns this cache has taken."
            )
        if n == self.used or self.ledger is None:
            return
        kept = self.ledger[:, 0, :n]  # [batch, n]
        seen = kept.amax(dim=-1) + 1 if n else torch.zeros_like(self._seen)
        for layer in self.layers:
            _checked(layer.refuse_crop, self._seen, seen)
        for layer in self.layers:
            layer.crop(n, seen)
        if self.kind.capacity is None:
            self.ledger = self.ledger[:, :, :n].contiguous()
        else:
            self.ledger[:, :, n:] = FREE
        self._seen.copy_(seen.clamp(min=0))
        self._next.fill_(n)
        self.used = n
        self._ids = None if self._ids is None else self._ids[:, :n]

    def forget(self, positions: Tensor | list[int]) -> None:
        """Free the entries of the tokens at `positions [n]`, or `[batch, n]`: so many of each row.

        The other entries stay as they are, at their own positions: later tokens were computed with the
        forgotten ones in their past. `tokens_seen` stays, so new tokens go on at the next position.

        Raises:
            CacheError: a position that is not held, or a store that cannot free entries one by one.
        """
        layers = [layer for layer in self.layers if isinstance(layer, DynamicLayer)]
        if len(layers) < len(self.layers):
            raise CacheError(f'a {self.kind.name} store cannot free single entries; use store="dynamic".')
        if self.ledger is None:
            raise CacheError("forget: this cache is empty, there is nothing to forget yet.")
        gone = torch.as_tensor(positions, dtype=torch.int32, device=self.device)
        batch = self.ledger.shape[0]
        if gone.dim() not in (1, 2) or (gone.dim() == 2 and len(gone) != batch):
            raise CacheError(f"forget takes positions [n] or [{batch}, n], not {list(gone.shape)}.")
        gone = gone.expand(batch, -1)
        ledgers = [self.ledger if layer.ledger is None else layer.ledger for layer in layers]
        held = torch.stack([layer.holds(gone, ledger) for layer, ledger in zip(layers, ledgers, strict=True)])
        missing = ~held.any(dim=0) | (gone < 0)  # [batch, n]
        if bool(missing.any()):
            row, i = missing.nonzero()[0].tolist()
            raise CacheError(f"forget: row {row} holds no position {int(gone[row, i])}; nothing was changed.")
        if gone.numel():
            for layer, ledger in zip(layers, ledgers, strict=True):
                layer.forget(gone, ledger)

    def reorder(self, rows: Tensor | list[int]) -> None:
        """Row i continues what row `rows[i]` was: beam search, or one prompt for several rows.

        Raises:
            CacheError: a row that does not exist; a static store with another number of rows.
        """
        if self.ledger is None:
            raise CacheError("reorder: this cache is empty, there are no rows yet.")
        rows = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        batch = self.ledger.shape[0]
        if rows.dim() != 1 or not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= batch:
            raise CacheError(f"reorder takes row numbers from 0 to {batch - 1}, not {rows.tolist()}.")
        if self.kind.batch is not None and len(rows) != batch:
            raise CacheError(
                f"a static cache keeps its batch of {batch}; reorder was given {len(rows)} rows."
            )
        for layer in self.layers:
            layer.reorder(rows)
        for name in ("ledger", "_seen", "_ids", "source"):
            tensor = getattr(self, name)
            if tensor is not None and self.kind.capacity is not None:
                tensor.copy_(tensor.index_select(0, rows))  # in place: a captured graph knows this address
            elif tensor is not None:
                setattr(self, name, tensor.index_select(0, rows))

    def reset(self) -> None:
        """Forget everything; a static store keeps its memory for the next text."""
        if self.kind.capacity is None:
            self.layers = [
                self.kind.layer(i, self.config, layer.knobs, self.device, self.dtype)
                for i, layer in enumerate(self.layers)
            ]
            self._clear()
        elif self.used or self._open:
            for layer in self.layers:
                layer.drop_unsettled(0, torch.zeros_like(self._seen))
                layer.crop(0, torch.zeros_like(self._seen))
            self.ledger.fill_(FREE)
            self._seen.zero_()
            self._next.zero_()
            self.used, self._padded, self._open, self.source = 0, False, False, None

    def __repr__(self) -> str:
        knobs = [type(k).__name__ for k in (self.codec, self.eviction, self.selection) if k is not None]
        size = "" if self.kind.capacity is None else f" of {self.kind.capacity}"
        what = " + ".join([self.kind.name, *knobs])
        return f"<Cache {what} for {self.config.name}: {self.used}{size} slots, {self.nbytes:,} B>"


def _expect(knob: str, given: object, kind: type, example: str) -> None:
    if not (given is None or isinstance(given, kind)):
        raise CacheError(f"the {knob} must be one like kvlab.{example} or None, not {given!r}.")


def _checked(call: Callable[..., Any], *args: object) -> Any:
    """What `call` returns; what it refuses is a CacheError."""
    try:
        return call(*args)
    except ValueError as error:
        raise CacheError(str(error)) from None
