"""Every store with every codec and every eviction, on a left-padded batch: right, or one clear refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pairs import CODECS, EVICTIONS, STORES, codec_of, lm_of, make, refusal, tolerance
from small import ids
from test_pairs import Plain, PlainCrossLayer
from torch import Tensor

from kvlab import Cache, CacheError
from kvlab import eviction as eviction_package
from kvlab.eviction import Eviction, Merging, Scored
from kvlab.model.config import Config
from kvlab.stores import FREE, Knobs, Layer, Step, Store, View
from kvlab.stores.buffer import gather_slots

TOGETHER = [
    (store, codec, eviction)
    for store in STORES
    for codec in CODECS
    for eviction in EVICTIONS
    if refusal(store, codec, eviction=EVICTIONS[eviction]()) is None
]


class ListStream(Plain):
    """Slots in a Python list: gathered one by one, and encoded as the codec's documentation says."""

    def whole(self) -> Tensor:
        return torch.arange(len(self.slots)).view(1, 1, -1)

    def keep(self, rows: Tensor) -> None:
        codec = self.codec
        moves = codec is not None and codec.block == 1 and not codec.residual and not codec.sink
        if moves:
            self.settle(self.whole())
        self.hold(gather_slots(self.read(), rows.clamp(min=0)))
        if moves:
            self.done, self.sinks = len(self.slots), 0  # as they were encoded, and not once more

    def hold(self, x: Tensor) -> None:
        self.slots, self.done, self.sinks = list(x.unbind(dim=2)), 0, None


class ListLayer(PlainCrossLayer):
    """Keeps positions, columns and slots as a dynamic layer should, with nothing packed."""

    def __init__(self, knobs: Knobs):
        super().__init__(knobs)
        self.keys, self.values = ListStream(knobs.key_codec), ListStream(knobs.value_codec)
        self.held: Tensor | None = None
        self.columns: dict[str, Tensor] = {}

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        self.keys.append(k)
        self.values.append(v)
        eviction = self.knobs.eviction
        if self.held is not None:
            new = step.positions[:, None].expand(-1, k.shape[1], -1)
            self.held = torch.cat((self.held, new), dim=2)
        for name, fill in (eviction.columns() if eviction else {}).items():
            new = torch.full(k.shape[:3], fill)
            self.columns[name] = torch.cat((self.columns[name], new), 2) if name in self.columns else new
        positions = step.ledger if self.held is None else self.held
        rope = None
        if self.knobs.plain_keys:
            rope = eviction.rope(positions, step) if eviction else None
            rope = rope or (step.positions[:, None], positions)
        merged = self.held is not None and eviction is not None and eviction.merges
        bias = eviction.bias(self.columns, k.dtype) if merged else None
        return View(self.keys, self.values, positions, rope, bias)  # type: ignore[arg-type]

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        eviction = self.knobs.eviction
        if eviction is not None:
            view.mass = mass
            eviction.observe(queries, mass, view, step, self.columns)
            rows = eviction.keep(view, step, self.columns)
            if rows is not None:
                rows = rows.expand(-1, queries.shape[1] // 2, -1)
                self.keys.keep(rows)
                self.values.keep(rows)
                self._take(rows, view)
            new = eviction.merge(self.keys.read(), self.values.read(), view, step, self.columns)
            if eviction.merges and new is not None:
                self.keys.hold(new.keys)
                self.values.hold(new.values)
                self._take(new.rows, view)
                self.columns.update(new.columns)
        for stream in (self.keys, self.values):
            stream.settle(step.ledger if self.held is None else stream.whole())

    def _take(self, rows: Tensor, view: View) -> None:
        positions = view.positions.expand(-1, rows.shape[1], -1)
        self.held = gather_slots(positions, rows.clamp(min=0)).masked_fill(rows < 0, FREE)
        self.columns = {name: gather_slots(x, rows.clamp(min=0)) for name, x in self.columns.items()}


class ListStore(Store):
    name = "list"

    def layer(self, index: int, config: Config, knobs: Knobs, device: Any, dtype: Any) -> Layer:
        return ListLayer(knobs)


def walk(lm: Any, cache: Cache) -> list[Tensor]:
    """Logits of real tokens: a prompt with six pads before row 1, a chunk, two single tokens."""
    text, mask = ids(2, 25), torch.ones(2, 19, dtype=torch.bool)
    mask[1, :6] = False
    source = {"source": lm.encode(ids(2, 11, seed=2))} if hasattr(lm, "encode") else {}
    parts = [lm(text[:, :19], cache, mask, **source)[mask]]
    return parts + [lm(text[:, a:b], cache) for a, b in ((19, 23), (23, 24), (24, 25))]


@pytest.mark.parametrize("store", sorted({store for store, _, _ in TOGETHER}))
@pytest.mark.parametrize("codec", CODECS)
def test_three_that_work_give_what_lists_of_entries_give(store: str, codec: str) -> None:
    lm = lm_of(store)
    for name in [eviction for s, c, eviction in TOGETHER if (s, c) == (store, codec)]:
        cache = make(store, codec, eviction=EVICTIONS[name]())
        plain = Cache(lm, store=ListStore(), codec=codec_of(codec), eviction=EVICTIONS[name]())
        for got, wanted in zip(walk(lm, cache), walk(lm, plain), strict=True):
            assert (got - wanted).abs().max() < tolerance(codec), name
        kept = max(layer.keys.slots for layer in cache.layers if layer.knobs.eviction is not None)  # type: ignore[attr-defined]
        assert kept < 25, f"{name} has freed nothing"


def test_three_work_together_where_each_pair_does() -> None:
    """So the tables of pairs say everything; what is refused says so in one sentence that names the cause."""
    alone = {(store, codec) for store in STORES for codec in CODECS if refusal(store, codec) is None}
    for store in STORES:
        for name, eviction in EVICTIONS.items():
            pair = refusal(store, None, eviction=eviction()) is None
            for codec in CODECS:
                why = refusal(store, codec, eviction=eviction())
                assert (why is None) == (pair and (store, codec) in alone), (store, codec, name)
                if why is not None:
                    assert why.endswith(".") and "\n" not in why and ". " not in why


def test_no_eviction_is_left_out() -> None:
    public = {getattr(eviction_package, name) for name in eviction_package.__all__}
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Eviction)}
    assert kinds - {Eviction, Scored, Merging} == {type(make()) for make in EVICTIONS.values()}


def test_a_refusal_leaves_nothing_behind() -> None:
    with pytest.raises(CacheError, match="would free nothing"):
        make("static", None, eviction=EVICTIONS["H2O"]())
