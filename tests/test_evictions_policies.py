"""Every policy against a decoder whose cache is a Python list, and through all that a cache can do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from evictions_reference import ListCache, adakv, consecutive, h2o, sink_recent, snapkv, tova
from small import CONFIG, TOKEN_BYTES, ids, model, same, storages, weights_of

import kvlab
from kvlab import Cache, Int8
from kvlab.eviction import (
    H2O,
    TOVA,
    AdaKV,
    ConsecutiveMerge,
    Eviction,
    LSHMerge,
    Only,
    PyramidKV,
    RandomKeep,
    SnapKV,
    StreamingLLM,
    Window,
)
from kvlab.model import Config

ALL_FULL = CONFIG.replace(name="all full", layer_types=("full",) * 3)
CHUNKS = (21, 1, 1, 1, 4, 1, 1, 1, 9, 1, 1, 1, 1)  # 44 tokens
PYRAMID = PyramidKV(14, layers=3, window=5, kernel=3, beta=4)

POLICIES: dict[str, Callable[[], Eviction]] = {
    "Window": lambda: Window(7),
    "StreamingLLM": lambda: StreamingLLM(sinks=2, recent=7),
    "H2O": lambda: H2O(12, recent=5),
    "TOVA": lambda: TOVA(11),
    "SnapKV": lambda: SnapKV(12, window=5, kernel=3),
    "AdaKV": lambda: AdaKV(12, window=4, kernel=3, floor=0.5),
    "PyramidKV": lambda: PYRAMID,
    "RandomKeep": lambda: RandomKeep(12, sinks=2, recent=4),
    "ConsecutiveMerge": lambda: ConsecutiveMerge(12, sinks=2, recent=4),
    "LSHMerge": lambda: LSHMerge(12, sinks=2, recent=4),
}
EVERY = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)

REFERENCES = {
    "Window": lambda: sink_recent(0, 7),
    "StreamingLLM": lambda: sink_recent(2, 7),
    "H2O": lambda: h2o(12, 5),
    "TOVA": lambda: tova(11),
    "SnapKV": lambda: snapkv((12, 12, 12), 5, 3),
    "AdaKV": lambda: adakv(12, 4, 3, 0.5),
    "PyramidKV": lambda: snapkv((21, 14, 7), 5, 3),
    "ConsecutiveMerge": lambda: consecutive(12, 2, 4),
}


def held(cache: Cache, layer: int = 0, row: int = 0) -> list[list[int]]:
    """Positions that each head of a layer holds."""
    return [slots[slots >= 0].tolist() for slots in cache.layers[layer].ledger[row]]


def padded(*columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two texts of 44 tokens, the first of them behind so many columns of padding."""
    mask = torch.ones(2, 44, dtype=torch.bool)
    mask[0, : columns[0]] = False
    return ids(2, 44), mask


@pytest.mark.parametrize("config", [CONFIG, ALL_FULL], ids=lambda config: config.name)
@pytest.mark.parametrize("name", REFERENCES)
def test_logits_and_entries_are_those_of_a_plain_list(name: str, config: Config) -> None:
    lm, text = model(config=config), ids(1, sum(CHUNKS))
    cache = Cache(lm, eviction=POLICIES[name]())
    plain = ListCache(config, weights_of(config=config), REFERENCES[name](), closed=name == "StreamingLLM")
    start = 0
    for size in CHUNKS:
        chunk = text[:, start : start + size]
        assert same(lm(chunk, cache)[0], torch.from_numpy(plain.take(chunk[0].tolist()))), start
        start += size
        for layer in range(3):
            # What no window reaches any more is worth nothing to any policy: which of it stays is open.
            if config is ALL_FULL and cache.layers[layer].ledger is not None:
                assert held(cache, layer) == plain.positions(layer), (start, layer)


class TestEveryPolicy:
    @EVERY
    def test_rows_with_padding_do_as_they_do_alone(self, make) -> None:
        lm, (text, mask) = model(), padded(6)
        both, alone = Cache(lm, eviction=make()), Cache(lm, eviction=make())
        lm(text[:, :38], both, mask[:, :38])
        lm(text[:1, 6:38], alone)
        for layer in range(3):
            assert held(both, layer) == held(alone, layer)
        for i in range(38, 44):
            assert same(lm(text[:, i : i + 1], both)[0], lm(text[:1, i : i + 1], alone)[0])

    @EVERY
    def test_frees_rows_for_real(self, make) -> None:
        lm = model()
        cache = Cache(lm, eviction=make())
        lm(ids(2, 100), cache)
        slots = [layer.ledger.shape[2] for layer in cache.layers]
        assert max(slots) < 25
        numbers = 1 + len(cache.layers[0].columns)  # the ledger's, and one for each column, 4 bytes
        assert cache.nbytes == sum(2 * n * (TOKEN_BYTES // 3 + 2 * 4 * numbers) for n in slots)
        assert sum(storages(cache.layers).values()) == cache.allocated_bytes == cache.nbytes
        assert cache.tokens_seen.tolist() == [100, 100]

    @EVERY
    def test_new_tokens_go_on_at_the_position_of_the_text(self, make) -> None:
        lm = model()
        cache = Cache(lm, eviction=make())
        lm(ids(1, 40), cache)
        assert cache.tokens_stored.item() < 40
        lm(ids(1, 1), cache)
        assert all(head[-1] == 40 for layer in range(3) for head in held(cache, layer))

    @EVERY
    def test_fork_and_reorder_take_everything_along(self, make) -> None:
        lm, (text, mask) = model(), padded(6)
        cache = Cache(lm, eviction=make())
        lm(text[:, :36], cache, mask[:, :36])
        twin = cache.fork()
        lm(text[:, :4], twin)
        swapped = cache.fork()
        swapped.reorder([1, 0])
        for i in range(36, 44):
            new = text[:, i : i + 1]
            assert same(lm(new.flip(0), swapped).flip(0), lm(new, cache))

    @EVERY
    def test_crop_drops_the_newest_and_brings_nothing_back(self, make) -> None:
        lm, text = model(), ids(1, 44)
        cache = Cache(lm, eviction=make())
        for start, size in ((0, 30), (30, 1), (31, 1), (32, 1)):
            lm(text[:, start : start + size], cache)
        before = [held(cache, layer) for layer in range(3)]
        cache.crop(31)
        for layer in range(3):
            assert held(cache, layer) == [[p for p in head if p < 31] for head in before[layer]]
        assert cache.tokens_seen.item() == 31
        lm(text[:, 31:32], cache)
        assert all(head[-1] == 31 for head in held(cache))

    @EVERY
    def test_over_int8(self, make) -> None:
        """Codes are moved or written again, and the logits stay near those without a codec."""
        lm, text = model(), ids(1, 44)
        coarse, exact = Cache(lm, codec=Int8(), eviction=make()), Cache(lm, eviction=make())
        for start, size in ((0, 36), (36, 1), (37, 1), (38, 1)):
            a, b = (lm(text[:, start : start + size], cache) for cache in (coarse, exact))
        parts = coarse.layers[0].keys.packed()
        assert parts["code"].dtype == torch.int8 and parts["code"].shape[2] == coarse.layers[0].keys.slots
        assert coarse.nbytes < exact.nbytes / 2
        assert (a - b).abs().max() < 0.5 * b.std()

    @EVERY
    def test_over_blocks(self, make) -> None:
        """A codec of blocks is decoded and sealed again; one that rounds nothing then changes nothing."""
        from exact_members import ExactBlocks

        lm, (text, mask) = model(), padded(6)
        blocks, exact = Cache(lm, codec=ExactBlocks(2, 2, 1), eviction=make()), Cache(lm, eviction=make())
        for start, size in ((0, 36), (36, 1), (37, 1), (38, 5)):
            part, real = text[:, start : start + size], mask[:, start : start + size]
            assert same(lm(part, blocks, real)[real], lm(part, exact, real)[real])
        assert blocks.layers[0].keys.sealed_slots > 0

    @EVERY
    def test_an_interrupted_step_leaves_no_token_behind(self, make) -> None:
        lm, text = model(), ids(1, 44)
        cache = Cache(lm, eviction=make())
        lm(text[:, :36], cache)

        def stop(*_) -> None:
            raise KeyboardInterrupt

        hook = lm.layers[1].mlp.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            lm(text[:, 36:38], cache)
        hook.remove()
        assert max(p for layer in range(3) for head in held(cache, layer) for p in head) < 36
        lm(text[:, 36:37], cache)
        assert all(held(cache, layer)[0][-1] == 36 for layer in range(3))

    @EVERY
    def test_a_static_store_and_a_ring_refuse_it(self, make) -> None:
        lm, name = model(), type(make()).__name__
        for store in ({"store": "static", "capacity": 64}, {"store": "hybrid"}):
            with pytest.raises(kvlab.CacheError, match=name):
                Cache(lm, eviction=make(), **store)

    @EVERY
    def test_in_the_full_layers_of_a_hybrid_store(self, make) -> None:
        lm, text = model(), ids(1, 44)
        hybrid = Cache(lm, store="hybrid", eviction=Only(make(), layers=(0, 2)))
        dynamic = Cache(lm, eviction=Only(make(), layers=(0, 2)))
        for start, size in ((0, 36), (36, 1), (37, 1), (38, 1)):
            new = text[:, start : start + size]
            assert same(lm(new, hybrid), lm(new, dynamic))
        assert hybrid.layers[0].keys.slots < 25 and hybrid.layers[1].keys.slots <= 5
        assert dynamic.layers[1].keys.slots == 39


BAD: dict[str, tuple[Callable[[], Eviction], str]] = {
    "window": (lambda: Window(0), "recent >= 1"),
    "sinks": (lambda: StreamingLLM(-1, 4), "sinks >= 0"),
    "h2o": (lambda: H2O(8, recent=9), "budget >= 9"),
    "h2o recent": (lambda: H2O(8, recent=0), "recent >= 1"),
    "tova": (lambda: TOVA(0), "budget >= 1"),
    "random": (lambda: RandomKeep(30, sinks=4, recent=32), "budget >= 36"),
    "snap budget": (lambda: SnapKV(32, window=32), "budget > 32"),
    "snap kernel": (lambda: SnapKV(64, kernel=4), "odd kernel"),
    "snap pool": (lambda: SnapKV(64, pool="sum"), 'pool "avg" or "max"'),  # type: ignore[arg-type]
    "ada": (lambda: AdaKV(64, floor=1.5), "0 to 1"),
    "pyramid": (lambda: PyramidKV(64, layers=0), "layers >= 1"),
    "pyramid beta": (lambda: PyramidKV(64, layers=3, beta=0.5), "beta >= 1"),
    "merge": (lambda: ConsecutiveMerge(36, sinks=4, recent=32), "budget > 36"),
    "lsh": (lambda: LSHMerge(64, bits=60), "1 to 52 bits"),
    "only": (lambda: Only(TOVA(4), layers=()), "numbers of the layers"),
}


@pytest.mark.parametrize("make, words", BAD.values(), ids=BAD)
def test_bad_parameters_are_refused_with_a_sentence(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_pyramid_for_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="made for 2 layers"):
        Cache(model(), eviction=PyramidKV(64, layers=2))


class TestWhatEachIsKnownFor:
    def test_streaming_positions_never_exceed_the_budget(self) -> None:
        """So a text may be longer than any distance that the model was trained on."""
        seen: list[torch.Tensor] = []

        class Watched(StreamingLLM):
            def rope(self, positions, step):
                seen.append(super().rope(positions, step)[1])
                return super().rope(positions, step)

        lm = model()
        cache = Cache(lm, eviction=Watched(2, 6))
        for _ in range(40):
            lm(ids(1, 1), cache)
        assert max(int(places.max()) for places in seen) == 8
        assert all(places[0, 0].tolist() == list(range(places.shape[-1])) for places in seen)

    def test_tova_keeps_the_same_tokens_in_all_heads_of_a_layer(self) -> None:
        lm = model()
        cache = Cache(lm, eviction=TOVA(11))
        lm(ids(1, 40), cache)
        assert all(held(cache, layer)[0] == held(cache, layer)[1] for layer in range(3))

    def test_snapkv_acts_once_and_keeps_what_comes_later(self) -> None:
        lm, text = model(), ids(1, 44)
        cache = Cache(lm, eviction=SnapKV(12, window=5, kernel=3))
        lm(text[:, :30], cache)
        chosen = held(cache)
        assert [len(head) for head in chosen] == [12, 12]
        lm(text[:, 30:40], cache)
        lm(text[:, 40:41], cache)
        assert held(cache) == [head + list(range(30, 41)) for head in chosen]

    def test_snapkv_waits_for_a_chunk_that_holds_its_window(self) -> None:
        lm, text = model(), ids(1, 44)
        cache = Cache(lm, eviction=SnapKV(12, window=5))
        for start in range(0, 16, 4):
            lm(text[:, start : start + 4], cache)
        assert cache.tokens_stored.item() == 16
        lm(text[:, 16:21], cache)
        assert cache.tokens_stored.item() == 12

    def test_max_pooling_is_not_the_average(self) -> None:
        lm, text = model(), ids(1, 44)
        caches = [Cache(lm, eviction=SnapKV(12, window=5, pool=pool)) for pool in ("avg", "max")]
        for cache in caches:
            lm(text, cache)
        assert any(held(caches[0], layer) != held(caches[1], layer) for layer in range(3))

    def test_adakv_shares_one_budget_and_sees_to_the_floor(self) -> None:
        lm = model(config=ALL_FULL)
        cache = Cache(lm, eviction=AdaKV(12, window=4, kernel=3, floor=0.5))
        lm(ids(1, 44), cache)
        lengths = [[len(head) for head in held(cache, layer)] for layer in range(3)]
        assert all(sum(heads) == 24 and min(heads) >= 6 for heads in lengths)
        assert any(heads[0] != heads[1] for heads in lengths)
        longest = max(map(max, lengths))
        assert cache.layers[0].keys.slots <= longest  # and the shorter heads fill up to it
        assert cache.tokens_stored.item() == longest

    def test_a_pyramid_falls_from_layer_to_layer_around_its_average(self) -> None:
        pyramid = PyramidKV(512, layers=30, beta=20)
        budgets = [pyramid.budget_at(layer, 4096) for layer in range(30)]
        assert (budgets[0], budgets[-1]) == (32 + 936, 32 + 24)
        assert budgets == sorted(budgets, reverse=True) and abs(sum(budgets) / 30 - 512) < 0.5
        short = [pyramid.budget_at(layer, 600) for layer in range(30)]
        assert short[0] == 600 and abs(sum(short) / 30 - 512) < 0.5

    def test_random_entries_are_a_fair_draw(self) -> None:
        lm = model()
        counts = torch.zeros(60)
        for seed in range(40):
            cache = Cache(lm, eviction=RandomKeep(20, sinks=0, recent=4, seed=seed))
            for _ in range(3):
                lm(ids(1, 20, seed=seed), cache)
            for head in held(cache):
                counts[head] += 1
        assert counts[56:].tolist() == [80] * 4  # two heads, 40 seeds
        old, young = counts[:28].mean().item(), counts[28:56].mean().item()
        assert abs(old - young) < 0.15 * (old + young)  # expected 22.9 each; 16 of 56

    def test_a_random_draw_does_not_depend_on_the_chunks(self) -> None:
        lm, text = model(), ids(1, 44)
        one, many = (Cache(lm, eviction=RandomKeep(12, 2, 4, seed=3)) for _ in range(2))
        lm(text, one)
        for start in range(0, 44, 11):
            lm(text[:, start : start + 11], many)
        assert held(one) == held(many)
        assert held(one, 0) != held(one, 2)

    def test_only_the_named_layers_lose_entries(self) -> None:
        lm = model()
        cache = Cache(lm, eviction=Only(H2O(8), layers=[1]))
        lm(ids(1, 30), cache)
        assert [layer.keys.slots for layer in cache.layers] == [30, 8, 30]
