"""Selections: which entries are read, and that no others are."""

from __future__ import annotations

import pytest
import torch
from exact_members import ReadAll
from small import CONFIG, ids, logits_of, model, same

from kvlab import Cache, Int8, LSHMerge, TopK, record
from kvlab.selection import Pick, Selection

STORES = {"dynamic": {}, "static": {"store": "static", "capacity": 24, "batch": 2}}
each_store = pytest.mark.parametrize("store", STORES)


@pytest.fixture(scope="module")
def lm():
    return model()


class Watched(TopK):
    """Remembers what it picked."""

    def __init__(self, k: int):
        super().__init__(k)
        self.picks: list[Pick | None] = []

    def choose(self, *args) -> Pick | None:
        self.picks.append(super().choose(*args))
        return self.picks[-1]


@each_store
def test_k_of_all_is_dense_attention(lm, store: str) -> None:
    """Where k covers every entry; at one fewer than the slots of a static store, none of which is free."""
    text = ids(2, 20)
    cache = Cache(lm, selection=TopK(23), **STORES[store])
    first = lm(text[:, :10], cache)
    logits = torch.cat([first, *(lm(text[:, i : i + 1], cache) for i in range(10, 20))], 1)
    assert same(logits, torch.stack([logits_of(row) for row in text.tolist()]))


@each_store
def test_k_of_fewer_changes_the_logits(lm, store: str) -> None:
    text = ids(2, 20)
    cache = Cache(lm, selection=TopK(3), **STORES[store])
    first = lm(text[:, :19], cache)
    wanted = torch.stack([logits_of(row) for row in text.tolist()])
    assert same(first, wanted[:, :19])  # a prompt is read in full
    error = (lm(text[:, 19:], cache) - wanted[:, 19:]).abs().max().item()
    assert error > 1e-4


@each_store
def test_the_best_k_are_picked_for_each_head_group(lm, store: str) -> None:
    """Against the recorded attention of the same step; ties aside, which random weights do not make."""
    text, selection = ids(2, 15), Watched(4)
    cache = Cache(lm, selection=selection, **STORES[store])
    mask = torch.ones(2, 14, dtype=torch.bool)
    mask[0, :6] = False
    lm(text[:, :14], cache, mask)
    with record(lm) as rec:
        lm(text[:, 14:], cache)
    assert len(selection.picks) == CONFIG.num_hidden_layers
    by_group = rec.attention[0][:, :, 0].view(2, 2, 2, -1).sum(2)  # [batch, kv_heads, slots]
    wanted = by_group.argsort(-1, descending=True)[..., :4].sort(-1).values
    assert torch.equal(selection.picks[0].rows, wanted)


def test_merged_entries_count_as_many_as_they_are(lm) -> None:
    """The best by the attention that is really given, which has the log of the count added to its scores."""
    text, selection = ids(1, 30), Watched(3)
    cache = Cache(lm, selection=selection, eviction=LSHMerge(6, 1, 2, bits=1))
    lm(text[:, :29], cache)
    assert any(layer.columns["count"].max() > 2 for layer in cache.layers)
    with record(lm) as rec:
        lm(text[:, 29:], cache)
    for layer, pick in enumerate(selection.picks[-CONFIG.num_hidden_layers :]):
        by_group = rec.attention[layer][:, :, 0].unflatten(1, (2, 2)).sum(2)  # [batch, kv_heads, slots]
        assert torch.equal(pick.rows, by_group.topk(3, dim=-1).indices.sort(-1).values)


def test_only_what_is_picked_is_read(lm) -> None:
    """Entries that were not picked may hold anything: their values are never touched."""
    text, selection = ids(1, 15), Watched(4)
    cache = Cache(lm, selection=selection)
    lm(text[:, :14], cache)
    twin = cache.fork()
    wanted = lm(text[:, 14:], cache)
    for layer, pick in zip(twin.layers, selection.picks, strict=True):
        values = layer.values.rest.data
        unread = torch.ones(values.shape[:3], dtype=torch.bool)
        unread.scatter_(2, pick.rows.clamp(max=13), False)
        values[unread[:, :, :14, None].expand_as(values[:, :, :14]).nonzero(as_tuple=True)] = float("nan")
    assert torch.equal(lm(text[:, 14:], twin), wanted)


def test_a_pick_that_reaches_too_far_is_masked(lm) -> None:
    """Picking padding, free slots or what is outside the window reads them, and gives them no weight."""
    text = ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :5] = False
    for knobs in STORES.values():
        cache = Cache(lm, selection=ReadAll(), **knobs)
        lm(text[:, :11], cache, mask[:, :11])
        logits = lm(text[:, 11:], cache)
        assert same(logits[0], logits_of(text[0].tolist())[-1:])
        assert same(logits[1], logits_of(text[1, 5:].tolist())[-1:])


def test_over_codes_only_the_picked_are_decoded(lm) -> None:
    """The same rows are read, and come back as from the full stream."""
    text = ids(1, 12)
    for knobs in ({}, {"store": "static", "capacity": 16}):
        dense, picked = (
            Cache(lm, codec=Int8(), **knobs),
            Cache(lm, codec=Int8(), selection=ReadAll(), **knobs),
        )
        for cache in (dense, picked):
            lm(text[:, :11], cache)
        assert same(lm(text[:, 11:], picked), lm(text[:, 11:], dense))


def test_layers_may_be_left_out(lm) -> None:
    class NotTheFirst(TopK):
        def at(self, layer: int) -> Selection | None:
            return self if layer else None

    cache = Cache(lm, selection=NotTheFirst(2))
    lm(ids(1, 9), cache)
    lm(ids(1, 1), cache)
    read = [layer.bytes_read for layer in cache.layers]
    token = 2 * 2 * 4 * 8  # K and V, KV heads, head_dim, float64
    assert read == [None, 10 * token // 2 + 2 * token, 10 * token // 2 + 2 * token]
