"""Every store with every codec: the logits that a plain list of entries gives, or one clear refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import CAPACITY, CHUNK, CODECS, PROMPT, STORES, codec_of, lm_of, make, page, refusal, tolerance
from small import ids
from torch import Tensor

from kvlab import Cache, CacheError
from kvlab import codecs as codec_package
from kvlab.codecs import Choice, Codec
from kvlab.model.config import Config
from kvlab.stores import STORES as NAMES
from kvlab.stores import Knobs, Layer, Step, Store, View
from kvlab.stores.cross import CrossLayer

ROOT = Path(__file__).resolve().parent.parent
WORKING = [(store, codec) for store in STORES for codec in CODECS if refusal(store, codec) is None]
REFUSED = [(store, codec) for store in STORES for codec in CODECS if refusal(store, codec) is not None]


class Plain:
    """Entries in a Python list, one tensor a slot; what is due goes through the codec, once."""

    def __init__(self, codec: Codec | None):
        self.codec, self.slots, self.done, self.sinks = codec, [], 0, None  # type: ignore[var-annotated]

    def settle(self, positions: Tensor) -> None:
        """positions: `[batch, 1, slots]` of all slots so far."""
        codec = self.codec
        if codec is None:
            return
        if self.sinks is None or self.done == self.sinks:
            first = [
                i for i in range(len(self.slots)) if any(0 <= p < codec.sink for p in positions[:, 0, i])
            ]
            self.sinks = max(first) + 1 if first else 0
            self.done = self.sinks
        while len(self.slots) - self.done >= codec.residual + codec.block:
            due = slice(self.done, self.done + codec.block)
            coded = codec.decode(codec.encode(torch.stack(self.slots[due], dim=2)), self.slots[0].dtype)
            self.slots[due] = coded.unbind(dim=2)
            self.done += codec.block

    def read(self) -> Tensor:
        return torch.stack(self.slots, dim=2)

    def append(self, x: Tensor) -> None:
        self.slots += x.unbind(dim=2)


class PlainLayer(Layer):
    """Two lists; every slot is kept, and masks do the rest."""

    def __init__(self, knobs: Knobs):
        self.knobs = knobs
        self.keys, self.values = Plain(knobs.key_codec), Plain(knobs.value_codec)

    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        self.keys.append(k)
        self.values.append(v)
        rope = (step.positions.unsqueeze(1), step.ledger) if self.knobs.plain_keys else None
        return View(self.keys, self.values, step.ledger, rope)  # type: ignore[arg-type]

    def settle(self, queries: Tensor, mass: Tensor | None, view: View, step: Step) -> None:
        self.keys.settle(step.ledger)
        self.values.settle(step.ledger)

    def commit(self) -> None:
        pass

    def _none(self, *args: Any) -> Any:
        raise NotImplementedError

    crop = drop_unsettled = reorder = fork = stored_bytes = tensors = _none


class PlainCrossLayer(PlainLayer, CrossLayer):
    """The same, with a source that is encoded as soon as it was read once."""

    def __init__(self, knobs: Knobs):
        super().__init__(knobs)
        self.of_source = Plain(knobs.key_codec), Plain(knobs.value_codec)

    has_source = property(lambda self: bool(self.of_source[0].slots))

    def fill(self, k: Tensor, v: Tensor) -> None:
        for stream, x in zip(self.of_source, (k, v), strict=True):
            stream.append(x)
            stream.settle(torch.arange(x.shape[2]).view(1, 1, -1))

    def source(self) -> tuple[Tensor, Tensor]:
        return self.of_source[0].read(), self.of_source[1].read()


class PlainStore(Store):
    name = "plain"

    def layer(self, index: int, config: Config, knobs: Knobs, device: Any, dtype: Any) -> Layer:
        return PlainCrossLayer(knobs) if hasattr(config, "encoder_layers") else PlainLayer(knobs)


def walk(lm: Any, cache: Cache) -> Iterator[Tensor]:
    """Logits of real tokens: a prompt with six pads before row 1, a chunk, single tokens."""
    text, mask = ids(2, CAPACITY), torch.ones(2, PROMPT, dtype=torch.bool)
    mask[1, :6] = False
    source = {"source": lm.encode(ids(2, 11, seed=2))} if hasattr(lm, "encode") else {}
    yield lm(text[:, :PROMPT], cache, mask, **source)[mask]
    yield lm(text[:, PROMPT : PROMPT + CHUNK], cache)
    for i in range(PROMPT + CHUNK, CAPACITY):
        yield lm(text[:, i : i + 1], cache)


@pytest.mark.parametrize(("store", "codec"), WORKING)
def test_a_pair_that_works_gives_what_a_list_of_entries_gives(store: str, codec: str) -> None:
    lm = lm_of(store)
    plain = Cache(lm, store=PlainStore(), codec=codec_of(codec))
    exact = Cache(lm, **{"store": "cross"} if store == "cross" else {})
    lossy = 0.0
    for got, wanted, unrounded in zip(
        walk(lm, make(store, codec)), walk(lm, plain), walk(lm, exact), strict=True
    ):
        assert (got - wanted).abs().max() < tolerance(codec)
        lossy = max(lossy, (wanted - unrounded).abs().max().item())
    assert lossy > 1e-6, "the codec was never used"


@pytest.mark.parametrize(
    ("store", "codec"), [pair for pair in WORKING if pair[0] in ("dynamic", "static", "hybrid")]
)
def test_a_pair_that_works_can_be_read_in_blocks(store: str, codec: str) -> None:
    lm = lm_of(store)
    for got, wanted in zip(
        walk(lm, make(store, codec, blockwise=5)), walk(lm, make(store, codec)), strict=True
    ):
        assert (got - wanted).abs().max() < tolerance(codec)


@pytest.mark.parametrize(("store", "codec"), REFUSED)
def test_a_pair_that_does_not_work_is_refused_in_one_sentence(store: str, codec: str) -> None:
    with pytest.raises(CacheError) as raised:
        make(store, codec)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
    assert store == "none" or 'use store="dynamic"' in message or 'or store="dynamic"' in message


def test_no_store_and_no_codec_is_left_out() -> None:
    assert {case.knobs["store"] for case in STORES.values()} == set(NAMES)
    parts: set[type] = set()

    def add(codec: Any) -> None:
        parts.add(type(codec))
        for value in vars(codec).values():
            for one in value.values() if isinstance(value, dict) else [value]:
                if isinstance(one, Codec):
                    add(one)

    for name in CODECS:
        add(codec_of(name))
    public = {getattr(codec_package, name) for name in codec_package.__all__}
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Codec)}
    assert kinds - {Codec, Choice} <= parts


def test_the_docs_print_the_table() -> None:
    text = (ROOT / "docs" / "COMBINATIONS.md").read_text(encoding="utf-8")
    assert text == page(), "docs/COMBINATIONS.md is out of date; write it with `python tests/pairs.py`"
