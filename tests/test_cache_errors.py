"""What a cache refuses, in which words, and that nothing has changed behind a refusal."""

from __future__ import annotations

import re

import pytest
import torch
from exact_members import ExactBlocks
from small import CONFIG, ids, logits_of, model, same, storages

from kvlab import Cache, CacheError, Dynamic, Int8, NoStore, SinkRecent, Static, TopK


@pytest.fixture(scope="module")
def lm():
    return model()


TEXT = ids(2, 20)
ALL = torch.ones(2, 3, dtype=torch.bool)


def static(lm, capacity: int = 12) -> Cache:
    return Cache(lm, store="static", capacity=capacity, batch=2)


class TestOverflow:
    def test_names_what_was_asked_the_capacity_and_the_remedy(self, lm) -> None:
        cache = static(lm)
        lm(TEXT[:, :10], cache)
        with pytest.raises(CacheError) as error:
            lm(TEXT[:, 10:15], cache)
        words = str(error.value)
        assert "5 more token(s) after 10" in words and "capacity is 12" in words
        assert "capacity=15" in words and "reset()" in words

    def test_changes_nothing(self, lm) -> None:
        cache, wanted = static(lm), [logits_of(row) for row in TEXT.tolist()]
        lm(TEXT[:, :10], cache)
        before = {place: t.clone() for place, t in _contents(cache).items()}
        for _ in range(3):
            with pytest.raises(CacheError):
                lm(TEXT[:, 10:15], cache)
        after = _contents(cache)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[place], after[place]) for place in before)
        assert (cache.used, cache.remaining, cache.tokens_seen.tolist()) == (10, 2, [10, 10])
        for i in (10, 11):  # it can be filled to the last slot
            logits = lm(TEXT[:, i : i + 1], cache)
            assert all(same(logits[row], wanted[row][i]) for row in range(2))
        assert cache.remaining == 0
        with pytest.raises(CacheError):
            lm(TEXT[:, 12:13], cache)

    def test_a_first_prompt_that_is_too_long(self, lm) -> None:
        cache = static(lm)
        with pytest.raises(CacheError, match="13 more token"):
            lm(TEXT[:, :13], cache)
        assert cache.tokens_seen.tolist() == [0, 0]


def _contents(cache: Cache) -> dict[int, torch.Tensor]:
    from small import tensors_in

    return {t.data_ptr(): t for t in tensors_in([cache.layers, cache.ledger, cache._seen, cache._next])}


REFUSED_STEPS = {
    "no batch axis": (TEXT[0], None, r"\[batch, tokens\]"),
    "no tokens": (TEXT[:, :0], None, r"\[batch, tokens\]"),
    "floats": (TEXT.float(), None, "int64"),
    "booleans": (TEXT > 3, None, "int64"),
    "another batch": (TEXT[:1], None, "holds 2 sequence"),
    "mask of all tokens": (TEXT[:, :1], ALL, "for the new tokens only"),
    "mask of one row": (TEXT[:, :3], ALL[:1], "shape of ids"),
    "mask of numbers": (TEXT[:, :3], ALL.long(), r"must be bool.*\.bool\(\)"),
}


@pytest.mark.parametrize("kind", ["none", "dynamic", "static"])
@pytest.mark.parametrize("name", REFUSED_STEPS)
def test_a_wrong_step_is_refused_and_leaves_no_trace(lm, kind: str, name: str) -> None:
    cache = static(lm, 20) if kind == "static" else Cache(lm, store=kind)
    first = lm(TEXT[:, :5], cache)
    tokens, mask, words = REFUSED_STEPS[name]
    with pytest.raises(CacheError, match=words):
        lm(tokens, cache, mask)
    second = lm(TEXT[:, 5:8], cache)
    wanted = torch.stack([logits_of(row)[:8] for row in TEXT.tolist()])
    assert same(torch.cat((first, second), 1), wanted)


def test_a_cache_of_another_model(lm) -> None:
    other = model(config=CONFIG.replace(name="other", hidden_size=6))
    with pytest.raises(CacheError, match="made for other.*not for small"):
        lm(TEXT, Cache(other))


def test_a_cache_of_another_dtype(lm) -> None:
    from scenarios import random_weights

    from kvlab.model import Decoder

    single = Decoder.from_weights(CONFIG, random_weights(CONFIG, 0), dtype=torch.float32)
    for kind in ("dynamic", "none"):
        with pytest.raises(CacheError, match="float64.*float32"):
            single(TEXT, Cache(lm, store=kind))


@pytest.mark.parametrize("n", [-1, 6, 100])
def test_crop_out_of_range(lm, n: int) -> None:
    cache = Cache(lm)
    lm(TEXT[:, :5], cache)
    with pytest.raises(CacheError, match=re.escape(f"crop({n})") + ".*0 to 5"):
        cache.crop(n)
    assert cache.tokens_seen.tolist() == [5, 5]


@pytest.mark.parametrize("rows", [[0, 2], [-1, 0], [], [[0, 1]]], ids=str)
def test_reorder_to_rows_that_do_not_exist(lm, rows: list) -> None:
    cache = Cache(lm)
    lm(TEXT[:, :5], cache)
    with pytest.raises(CacheError, match="0 to 1"):
        cache.reorder(rows)


def test_reorder_of_an_empty_cache(lm) -> None:
    with pytest.raises(CacheError, match="empty"):
        Cache(lm).reorder([0])


def test_reorder_of_a_static_cache_keeps_its_batch(lm) -> None:
    cache = static(lm)
    lm(TEXT[:, :5], cache)
    places = storages(cache)
    with pytest.raises(CacheError, match="batch of 2.*3 rows"):
        cache.reorder([0, 0, 1])
    cache.reorder([1, 1])
    assert storages(cache) == places  # a captured graph knows these addresses


REFUSED_CACHES = {
    "unknown store": ({"store": "statics"}, "'none', 'dynamic', 'static'"),
    "static without capacity": ({"store": "static"}, "capacity"),
    "capacity of nothing": ({"store": "static", "capacity": 0}, "capacity >= 1"),
    "batch of nothing": ({"store": "static", "capacity": 9, "batch": 0}, "batch >= 1"),
    "capacity that is not kept": ({"store": "dynamic", "capacity": 9}, "leave capacity out"),
    "capacity beside a store": ({"store": Static(8), "capacity": 9}, "leave capacity out"),
    "static and eviction": (
        {"store": "static", "capacity": 9, "eviction": SinkRecent()},
        "SinkRecent.*free nothing.*dynamic",
    ),
    "static and blocks": (
        {"store": "static", "capacity": 9, "codec": ExactBlocks(4, 0, 0)},
        "ExactBlocks encodes 4 tokens together.*dynamic",
    ),
    "static and residual": (
        {"store": "static", "capacity": 9, "codec": (None, ExactBlocks(1, 3, 0))},
        "ExactBlocks keeps the newest 3 tokens exact.*dynamic",
    ),
    "none and codec": ({"store": "none", "codec": (None, Int8())}, "keeps no entries"),
    "none and eviction": ({"store": NoStore(), "eviction": SinkRecent()}, "keeps no entries"),
    "none and selection": ({"store": "none", "selection": TopK()}, "keeps no entries"),
}


@pytest.mark.parametrize("name", REFUSED_CACHES)
def test_what_cannot_work_is_refused_at_construction(lm, name: str) -> None:
    knobs, words = REFUSED_CACHES[name]
    with pytest.raises(CacheError, match=words):
        Cache(lm, **knobs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dynamic(0.5), "growth.*0.5"),
        (lambda: Static(0), "capacity >= 1"),
        (lambda: SinkRecent(-1, 3), "sinks >= 0"),
        (lambda: SinkRecent(1, 0), "recent >= 1"),
        (lambda: TopK(0), "k >= 1"),
    ],
)
def test_members_refuse_settings_out_of_range(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("knob", "given", "words"),
    [
        ("codec", "int4", r"the codec must be one like kvlab.Int8\(\), a pair .* or None, not 'int4'"),
        ("codec", (Int8(), "int4"), "the codec must be one like"),
        ("codec", Int8, "the codec must be one like"),
        ("eviction", TopK(2), "the eviction must be one like"),
        ("selection", SinkRecent(), "the selection must be one like"),
    ],
)
def test_a_knob_takes_what_belongs_on_it(lm, knob: str, given: object, words: str) -> None:
    with pytest.raises(CacheError, match=words):
        Cache(lm, **{knob: given})


def test_one_layer_of_knobs_is_enough_to_refuse(lm) -> None:
    with pytest.raises(CacheError, match="free nothing"):
        Cache(lm, store="static", capacity=9, eviction=_LastLayerOnly(1, 4))


class _LastLayerOnly(SinkRecent):
    def at(self, layer: int) -> SinkRecent | None:
        return self if layer == CONFIG.num_hidden_layers - 1 else None


def test_repr_says_what_it_is(lm) -> None:
    cache = Cache(lm, codec=Int8(), eviction=SinkRecent(), selection=TopK())
    assert repr(cache) == "<Cache dynamic + Int8 + SinkRecent + TopK for small: 0 slots, 0 B>"
    cache = static(lm, 12)
    lm(TEXT[:, :5], cache)
    assert repr(cache) == "<Cache static for small: 5 of 12 slots, 3,840 B>"
