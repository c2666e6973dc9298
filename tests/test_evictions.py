"""Evictions: who stays, at which position, and that the others are gone for real."""

from __future__ import annotations

import pytest
import torch
from exact_members import KeepAll
from reference import reference_logits
from small import CONFIG, TOKEN_BYTES, ids, logits_of, model, same, storages, weights_of

from kvlab import Cache, Int8, SinkRecent
from kvlab.eviction import Eviction
from kvlab.model import Config

ALL_FULL = CONFIG.replace(name="all full", layer_types=("full",) * 3)


@pytest.fixture(scope="module", params=[CONFIG, ALL_FULL], ids=lambda config: config.name)
def config(request) -> Config:
    return request.param


def positions(cache: Cache, layer: int = 0) -> list[list[int]]:
    """Positions held by head 0 of a layer, row by row."""
    return [row[row >= 0].tolist() for row in cache.layers[layer].ledger[:, 0]]


class TestSinkRecent:
    def test_the_first_and_the_newest_stay_at_their_own_positions(self, config: Config) -> None:
        lm, text = model(config=config), ids(1, 12)
        cache = Cache(lm, eviction=SinkRecent(sinks=2, recent=3))
        for i, held in enumerate(
            [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 3, 4, 5], [0, 1, 4, 5, 6]]
        ):
            lm(text[:, i : i + 1], cache)
            if cache.layers[0].ledger is not None:
                assert positions(cache) == [held]
            assert cache.tokens_stored.tolist() == [len(held)]
            assert cache.tokens_seen.tolist() == [i + 1]
        lm(text[:, 7:12], cache)
        assert positions(cache) == [[0, 1, 9, 10, 11]]

    def test_logits_are_those_of_an_explicit_mask(self, config: Config) -> None:
        """Evicted positions hidden by hand from every later token, in a decoder that keeps everything."""
        lm, text = model(config=config), ids(1, 30)
        cache = Cache(lm, eviction=SinkRecent(sinks=2, recent=4))
        chunks = (5, 1, 1, 1, 6, 1, 1, 9, 1, 1, 1, 1, 1)
        first_of_chunk = [sum(chunks[:n]) for n, size in enumerate(chunks) for _ in range(size)]
        parts = [lm(text[:, start : start + n], cache)[0] for n, start in _steps(chunks)]

        def hidden_from(i: int) -> range:  # what had been evicted before the chunk that holds i
            return range(2, max(2, first_of_chunk[i] - 4))

        wanted = reference_logits(config, weights_of(config=config), text[0].tolist(), hidden_from)
        assert same(torch.cat(parts), torch.from_numpy(wanted))
        assert not same(torch.cat(parts), logits_of(text[0].tolist(), config=config))

    def test_padding_does_not_count_as_a_token(self) -> None:
        lm, text = model(), ids(2, 12)
        mask = torch.ones(2, 12, dtype=torch.bool)
        mask[0, :7] = False
        cache, alone = Cache(lm, eviction=SinkRecent(2, 4)), Cache(lm, eviction=SinkRecent(2, 4))
        lm(text[:, :11], cache, mask[:, :11])
        lm(text[:1, 7:11], alone)
        assert positions(cache) == [[0, 1, 2, 3], [0, 1, 7, 8, 9, 10]]
        assert cache.tokens_stored.tolist() == [4, 6]
        for column in (11, 3, 5, 8):
            new = text[:, column : column + 1]
            assert same(lm(new, cache)[0], lm(new[:1], alone)[0])

    def test_frees_rows_for_real(self) -> None:
        lm = model()
        cache = Cache(lm, eviction=SinkRecent(2, 6))
        lm(ids(2, 100), cache)
        own_ledgers = 3 * 2 * 2 * 8 * 4  # layers, batch, KV heads, slots, bytes
        assert cache.nbytes == 2 * 8 * TOKEN_BYTES + own_ledgers
        assert sum(storages(cache.layers).values()) == cache.allocated_bytes == cache.nbytes
        for _ in range(20):
            lm(ids(2, 1), cache)
            assert cache.nbytes == 2 * 8 * TOKEN_BYTES + own_ledgers

    def test_over_int8_moves_codes_as_they_are(self) -> None:
        lm, text = model(), ids(1, 12)
        cache = Cache(lm, codec=Int8(), eviction=SinkRecent(2, 3))
        lm(text, cache)
        whole = Cache(lm, codec=Int8())
        lm(text, whole)
        kept = torch.tensor([0, 1, 9, 10, 11])
        for mine, theirs in zip(cache.layers, whole.layers, strict=True):
            for name in ("code", "scale"):
                assert torch.equal(mine.keys.packed()[name], theirs.keys.packed()[name][:, :, kept])

    def test_crop_cannot_bring_back_what_is_gone(self) -> None:
        lm, text = model(), ids(1, 12)
        cache = Cache(lm, eviction=SinkRecent(2, 3))
        for i in range(10):
            lm(text[:, i : i + 1], cache)
        cache.crop(8)
        assert positions(cache) == [[0, 1, 7]]
        assert (cache.tokens_seen.tolist(), cache.tokens_stored.tolist()) == ([8], [3])
        lm(text[:, 8:9], cache)
        assert positions(cache) == [[0, 1, 7, 8]]

    @pytest.mark.parametrize("layer", [0, 1, 2])
    def test_an_interrupted_step_leaves_no_entry_behind(self, layer: int) -> None:
        lm, text = model(), ids(1, 12)
        cache = Cache(lm, eviction=SinkRecent(2, 4))
        lm(text[:, :8], cache)

        def stop(*_) -> None:
            raise KeyboardInterrupt

        hook = lm.layers[layer].mlp.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            lm(text[:, 8:10], cache)
        hook.remove()
        for i in range(3):
            evicted_already = [0, 1, 6, 7] if i <= layer else [0, 1, 4, 5, 6, 7]
            assert positions(cache, i) == [evicted_already]
        lm(text[:, 8:9], cache)
        assert all(positions(cache, i)[0][-3:] == [6, 7, 8] for i in range(3))

    def test_rows_go_their_own_way_after_reorder(self) -> None:
        lm, text = model(), ids(2, 14)
        cache, straight = Cache(lm, eviction=SinkRecent(2, 4)), Cache(lm, eviction=SinkRecent(2, 4))
        lm(text[:, :9], cache)
        lm(text[[1, 1], :9], straight)
        cache.reorder([1, 1])
        assert same(lm(text[:, 9:], cache), lm(text[:, 9:], straight))


def _steps(chunks: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(n, sum(chunks[:i])) for i, n in enumerate(chunks)]


class TestWhatAPolicyIsGiven:
    def test_mass_is_the_attention_received(self) -> None:
        """Summed over the new queries and the heads of a group: each query gives one in all."""
        from kvlab import record

        seen: list[torch.Tensor] = []

        class Watch(KeepAll):
            def observe(self, queries, mass, view, step, columns) -> None:
                seen.append(mass)

        lm, text = model(), ids(2, 7)
        mask = torch.ones(2, 7, dtype=torch.bool)
        mask[0, :3] = False
        cache = Cache(lm, eviction=Watch("mass"))
        with record(lm) as rec:
            lm(text, cache, mask)
        for layer in range(3):
            received = (rec.attention[layer] * mask[:, None, :, None]).view(2, 2, 2, 7, 7).sum((2, 3))
            assert same(seen[layer], received)
            assert same(seen[layer].sum((1, 2)), 4.0 * mask.sum(1))  # four heads

    def test_columns_grow_with_the_entries(self) -> None:
        lm = model()
        cache = Cache(lm, eviction=KeepAll("mass"))
        for tokens in (5, 1, 1):
            lm(ids(1, tokens), cache)
        assert cache.layers[0].columns["received"].shape == (1, 2, 7)
        assert cache.layers[0].columns["received"].sum().item() == pytest.approx(7 * 4)
        cache.crop(4)
        assert cache.layers[0].columns["received"].shape == (1, 2, 4)

    def test_layers_may_be_left_out(self) -> None:
        class Middle(SinkRecent):
            def at(self, layer: int) -> Eviction | None:
                return self if layer == 1 else None

        lm = model()
        cache = Cache(lm, eviction=Middle(1, 3))
        lm(ids(1, 9), cache)
        assert [layer.keys.slots for layer in cache.layers] == [9, 4, 9]
        assert cache.tokens_stored.tolist() == [9]  # by the layer that holds most
