"""Tokens and bytes against numbers made by hand, and against the tensors that are really there."""

from __future__ import annotations

import pytest
import torch
from small import CONFIG, TOKEN_BYTES, ids, model, storages, tensors_in

from kvlab import Cache, Dynamic, Int8, SinkRecent, TopK

HALF = TOKEN_BYTES // 2  # keys, or values, of one token


@pytest.fixture(scope="module")
def lm():
    return model()


def filled(lm, tokens: int, batch: int = 1, **knobs) -> Cache:
    cache = Cache(lm, **knobs)
    lm(ids(batch, tokens), cache)
    return cache


def test_padding_is_stored_but_not_counted(lm) -> None:
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, :3] = False
    for knobs in ({}, {"store": "static", "capacity": 12, "batch": 2}):
        cache = Cache(lm, **knobs)
        lm(ids(2, 8), cache, mask)
        lm(ids(2, 1), cache, torch.tensor([[True], [False]]))  # a finished row goes on as padding
        assert cache.tokens_seen.tolist() == [6, 8]
        assert cache.tokens_stored.tolist() == [6, 8]
        assert cache.nbytes == 2 * 9 * TOKEN_BYTES  # nine slots in each row
        assert cache.logical_bytes == 14 * TOKEN_BYTES


def test_ledger_takes_four_bytes_a_slot(lm) -> None:
    assert filled(lm, 9, batch=2).ledger_bytes == 2 * 9 * 4
    assert Cache(lm, store="static", capacity=12, batch=2).ledger_bytes == 2 * 12 * 4


def test_nothing_is_counted_before_the_first_token(lm) -> None:
    cache = Cache(lm)
    assert (cache.nbytes, cache.allocated_bytes, cache.logical_bytes, cache.bytes_read) == (0, 0, 0, 0)
    assert cache.tokens_seen.tolist() == [] and cache.tokens_stored.tolist() == []
    assert cache.remaining is None


def test_a_growing_buffer_doubles(lm) -> None:
    cache = filled(lm, 10)
    seen = [(cache.nbytes // TOKEN_BYTES, cache.allocated_bytes // TOKEN_BYTES)]
    for _ in range(11):
        lm(ids(1, 1), cache)
        seen.append((cache.nbytes // TOKEN_BYTES, cache.allocated_bytes // TOKEN_BYTES))
    assert seen == [(10, 10), *((n, 20) for n in range(11, 21)), (21, 40)]
    lm(ids(1, 70), cache)  # more than twice as much: just enough
    assert (cache.nbytes, cache.allocated_bytes) == (91 * TOKEN_BYTES, 91 * TOKEN_BYTES)


def test_a_growth_of_one_has_no_slack_and_copies_at_every_token(lm) -> None:
    cache = filled(lm, 10, store=Dynamic(growth=1.0))
    for n in range(11, 15):
        before = tensors_in(cache.layers)  # held, so that no address is used again
        lm(ids(1, 1), cache)
        assert cache.nbytes == cache.allocated_bytes == n * TOKEN_BYTES
        assert not storages(before).keys() & storages(cache.layers).keys()


def test_static_allocates_once_and_for_all(lm) -> None:
    cache = Cache(lm, store="static", capacity=16, batch=2)
    assert (cache.nbytes, cache.allocated_bytes, cache.remaining) == (0, 2 * 16 * TOKEN_BYTES, 16)
    places = storages(cache)
    for tokens, used in ((5, 5), (1, 6), (10, 16)):
        lm(ids(2, tokens), cache)
        assert (cache.nbytes, cache.remaining) == (2 * used * TOKEN_BYTES, 16 - used)
        assert cache.allocated_bytes == 2 * 16 * TOKEN_BYTES
        assert storages(cache) == places


def test_recomputing_stores_nothing(lm) -> None:
    cache = filled(lm, 7, store="none")
    assert (cache.nbytes, cache.allocated_bytes, cache.bytes_read) == (0, 0, 0)
    assert cache.logical_bytes == 7 * TOKEN_BYTES
    assert (cache.tokens_seen.tolist(), cache.tokens_stored.tolist()) == ([7], [0])


KNOBS = {
    "dynamic": {},
    "static": {"store": "static", "capacity": 20, "batch": 2},
    "int8": {"codec": Int8()},
    "int8 static": {"codec": (Int8(), None), "store": "static", "capacity": 20, "batch": 2},
    "evicting": {"eviction": SinkRecent(2, 5)},
    "evicting int8": {"codec": Int8(), "eviction": SinkRecent(2, 5)},
}


@pytest.mark.parametrize("name", KNOBS)
def test_allocated_is_what_the_layers_hold(lm, name: str) -> None:
    cache = Cache(lm, **KNOBS[name])
    for tokens in (6, 1, 1, 4, 1):
        lm(ids(2, tokens), cache)
        assert cache.allocated_bytes == sum(storages(cache.layers).values())
        assert cache.nbytes <= cache.allocated_bytes
    cache.crop(5)
    assert cache.allocated_bytes == sum(storages(cache.layers).values())


def test_int8_takes_one_byte_a_number_and_two_a_token_and_head(lm) -> None:
    vectors = 2 * CONFIG.num_hidden_layers * CONFIG.num_key_value_heads  # of head_dim, a token
    assert filled(lm, 9, codec=Int8()).nbytes == 9 * vectors * (CONFIG.head_dim + 2)
    keys_only = filled(lm, 9, codec=(Int8(), None)).nbytes
    assert keys_only == 9 * (vectors // 2 * (CONFIG.head_dim + 2) + HALF)
    static = Cache(lm, store="static", capacity=10, codec=Int8())
    assert static.allocated_bytes == 10 * vectors * (CONFIG.head_dim + 2)


class TestBytesRead:
    def test_everything_once_a_step(self, lm) -> None:
        cache = filled(lm, 9)
        lm(ids(1, 1), cache)
        assert cache.bytes_read == 10 * TOKEN_BYTES

    def test_static_reads_its_whole_capacity(self, lm) -> None:
        assert filled(lm, 3, store="static", capacity=16).bytes_read == 16 * TOKEN_BYTES

    def test_topk_reads_every_key_and_then_k_entries(self, lm) -> None:
        cache = filled(lm, 9, selection=TopK(4))
        assert cache.bytes_read == 9 * TOKEN_BYTES  # the prompt is read in full
        lm(ids(1, 1), cache)
        assert cache.bytes_read == 10 * HALF + 4 * TOKEN_BYTES

    def test_topk_over_codes_reads_codes(self, lm) -> None:
        cache = filled(lm, 9, selection=TopK(4), codec=(Int8(), None))
        lm(ids(1, 1), cache)
        a_key = CONFIG.num_hidden_layers * 2 * (CONFIG.head_dim + 2)
        scored = 9 * a_key + HALF  # the new token is still exact
        gathered = cache.bytes_read - scored
        assert 4 * (a_key + HALF) <= gathered <= 4 * (a_key + 2 * HALF)

    def test_what_is_evicted_afterwards_was_read(self, lm) -> None:
        cache = filled(lm, 9, eviction=SinkRecent(1, 4))
        assert cache.bytes_read == 9 * TOKEN_BYTES
        lm(ids(1, 1), cache)
        assert cache.bytes_read == 6 * TOKEN_BYTES  # five were held, and one is new
        assert cache.tokens_stored.tolist() == [5]

    def test_new_entries_are_read_before_they_are_encoded(self, lm) -> None:
        cache = filled(lm, 9, codec=Int8())
        assert cache.bytes_read == 9 * TOKEN_BYTES
        lm(ids(1, 1), cache)
        assert cache.bytes_read == 9 * 12 * (CONFIG.head_dim + 2) + TOKEN_BYTES


def test_an_evicting_layer_counts_the_ledger_of_its_own(lm) -> None:
    cache = filled(lm, 9, eviction=SinkRecent(1, 4))
    assert cache.nbytes == 5 * TOKEN_BYTES + CONFIG.num_hidden_layers * 2 * 5 * 4


def test_shared_tensors_of_a_codec_count_once(lm) -> None:
    class Book(Int8):
        book = torch.zeros(100, dtype=torch.float16)

        def shared_tensors(self) -> list[torch.Tensor]:
            return [self.book]

    assert filled(lm, 9, codec=Book()).nbytes == filled(lm, 9, codec=Int8()).nbytes + 200
    assert Cache(lm, codec=(Book(), Book())).allocated_bytes == 200


def test_a_view_over_a_larger_tensor_counts_in_full() -> None:
    from kvlab.stores.buffer import distinct_storage_bytes

    whole = torch.zeros(100, 4)
    assert distinct_storage_bytes([whole[:2], whole[5:], torch.zeros(3)]) == 1600 + 12
