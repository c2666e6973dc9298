"""Quest, SparQ, hashes and heads: what each one promises, against loops and formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from exact_members import AllCodes, AllPages, ExactBlocks, HalfAndHalf, KeepAll
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CONFIG, ids, model, same

from kvlab import Cache, record
from kvlab.compiled import why_not
from kvlab.model.selected import Question, attend_selected
from kvlab.model.sparse_prefill import attend_prompt
from kvlab.selection import (
    AShape,
    Buckets,
    ByHead,
    Duo,
    LSHSampling,
    Pick,
    Quest,
    SimHash,
    SparQ,
    TopK,
    copy_scores,
    retrieval_heads,
)
from kvlab.selection.hashing import Directions, differing, nearest_direction, sign_bits, table_codes
from kvlab.selection.lsh import found_with
from kvlab.selection.quest import bounds, upper
from kvlab.stores.base import Step, View
from kvlab.stores.index import Index
from kvlab.stores.none import Passing

ALL_FULL = CONFIG.replace(name="all full", layer_types=("full",) * 3)
ENTRY = 2 * 2 * 4 * 8  # K and V, KV heads, head_dim, bytes of a float64


@pytest.fixture(scope="module")
def lm():
    return model(config=ALL_FULL)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picks_of(lm, selection, prompt: int, **knobs) -> list[Pick | None]:
    """What a selection picks in each layer for the token after a prompt."""
    picks: list[Pick | None] = []
    choose = selection.choose

    def watched(*args):
        picks.append(choose(*args))
        return picks[-1]

    selection.choose = watched
    cache = Cache(lm, selection=selection, **knobs)
    lm(ids(1, prompt), cache)
    lm(ids(1, 1), cache)
    del selection.choose
    return picks


class TestQuest:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(page=st.integers(1, 5), pages=st.integers(1, 4), seed=st.integers(0, 99), free=st.integers(0, 6))
    def test_no_key_scores_more_than_its_page(self, page: int, pages: int, seed: int, free: int) -> None:
        keys, q = draw(2, 2, page * pages, 4, seed=seed), draw(2, 2, 3, 4, seed=seed + 1)
        real = torch.ones(2, 1, page * pages, dtype=torch.bool)
        real[0, :, :free] = False
        most = upper(q, bounds(keys, real, page))
        scores = (q @ keys.transpose(-1, -2)).masked_fill(~real.unsqueeze(2), float("-inf"))
        best = scores.unflatten(-1, (pages, page)).amax(-1)
        assert bool((most >= best - 1e-12).all()) and bool(most.isfinite().all())
        if page == 1 and not free:
            assert torch.allclose(most, best)

    def test_the_pages_with_the_highest_bounds_are_read(self, lm) -> None:
        selection = Quest(page_size=4, pages=3, first=1)
        picks = picks_of(lm, selection, 29)
        assert len(picks) == 2  # the first layer is left out
        cache = Cache(lm)
        lm(ids(1, 29), cache)
        with record(lm) as rec:
            lm(ids(1, 1), cache)
        keys, q = rec.keys[1][0].numpy(), rec.queries[1][0, :, 0].numpy()
        for head in range(2):
            shares = np.zeros(7)
            for query in (q[2 * head], q[2 * head + 1]):
                page = [keys[head, 4 * i : 4 * i + 4] for i in range(7)]
                top = [np.maximum(query * k.min(0), query * k.max(0)).sum() * lm.config.scale for k in page]
                shares += np.exp(top) / np.exp(top).sum()
            assert picks[0].pages[0, head].tolist() == sorted(np.argsort(-shares)[:3].tolist())
        assert picks[0].rows[0, 0].tolist() == [28, 29]  # behind the last whole page

    def test_bytes_are_bounds_and_what_is_gathered(self, lm) -> None:
        cache = Cache(lm, selection=Quest(page_size=4, pages=2, first=1))
        lm(ids(1, 29), cache)
        index = 7 * 2 * 2 * 4 * 8  # pages, KV heads, minimum and maximum, head_dim, float64
        assert cache.nbytes == 3 * 29 * ENTRY + 2 * index
        lm(ids(1, 1), cache)
        assert [layer.bytes_read for layer in cache.layers] == [None] + 2 * [index + (2 * 4 + 2) * ENTRY]
        assert cache.bytes_read == 30 * ENTRY + 2 * (index + 10 * ENTRY)

    def test_few_pages_lose_and_all_pages_do_not(self, lm) -> None:
        text = ids(2, 40)
        truth = lm(text, Cache(lm))[:, -1]
        for pages, exact in ((50, True), (2, False)):
            cache = Cache(lm, selection=Quest(page_size=4, pages=pages, first=0))
            lm(text[:, :39], cache)
            assert same(lm(text[:, 39:], cache)[:, 0], truth) is exact

    def test_after_an_eviction_the_pages_are_others(self, lm) -> None:
        """And their bounds hold: `AllPages` looks at each. Reading for them is counted."""
        cache = Cache(lm, selection=AllPages(3), eviction=KeepAll())
        lm(ids(1, 12), cache)
        for _ in range(3):
            lm(ids(1, 1), cache)
            for_the_index = cache.layers[0].bytes_read - cache.used * ENTRY
            assert for_the_index == min(cache.used // 3 * 3, cache.used - 1) * ENTRY // 2


class TestSparQ:
    def test_with_all_channels_it_is_the_oracle_of_what_is_indexed(self, lm) -> None:
        picks, oracle = picks_of(lm, SparQ(r=4, k=5), 34), picks_of(lm, TopK(5), 34)
        for mine in picks[:1]:
            assert mine.rows[0, 0, -3:].tolist() == [32, 33, 34]  # newest, behind the last page of 16
        best = set(oracle[0].rows[0, 0].tolist()) - {32, 33, 34}
        assert best <= set(picks[0].rows[0, 0].tolist())

    def test_bytes_are_some_channels_and_what_is_gathered(self, lm) -> None:
        cache = Cache(lm, selection=SparQ(r=1, k=5))
        lm(ids(1, 34), cache)
        assert cache.nbytes == 3 * (34 * ENTRY + 32 * ENTRY // 2)  # the keys of two pages a second time
        lm(ids(1, 1), cache)
        channel = 32 * 2 * 8  # indexed slots, KV heads, one float64
        assert cache.layers[0].bytes_read == channel + (5 + 3) * ENTRY


class TestHashes:
    def test_differing_bits_count_the_angle(self) -> None:
        """Share of differing bits is θ/π: at 60 and 90 degrees a third and a half."""
        d = Directions(8000, 0)(torch.zeros(2, dtype=torch.float64))
        a = torch.tensor([1.0, 0.0], dtype=torch.float64)
        for degrees in (0, 60, 90, 180):
            angle = math.radians(degrees)
            b = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            share = int(differing(sign_bits(a, d), sign_bits(b, d))) / 8000
            assert share == pytest.approx(degrees / 180, abs=0.02)

    def test_chance_to_be_found_is_what_happens(self) -> None:
        """Two tables of L with K equal bits, tried 4,000 times, against the formula."""
        angle, bits, tables = math.radians(35), 3, 6
        a = torch.tensor([1.0, 0.0], dtype=torch.float64)
        b = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        hits = 0
        for seed in range(4000):
            d = Directions(bits * tables, seed)(a)
            hits += int((table_codes(a, d, tables) == table_codes(b, d, tables)).sum()) >= 2
        wanted = float(found_with(torch.tensor(math.cos(angle)), bits, tables))
        assert hits / 4000 == pytest.approx(wanted, abs=0.03)
        p = (1 - 35 / 180) ** 3
        by_hand = 1 - sum(math.comb(6, n) * p**n * (1 - p) ** (6 - n) for n in (0, 1))
        assert wanted == pytest.approx(by_hand)

    def test_a_vector_and_its_opposite_never_share_a_bucket(self) -> None:
        x = draw(50, 8)
        d = Directions(3 * 4, 1)(x)
        assert not (nearest_direction(x, d, 3) == nearest_direction(-x, d, 3)).any()
        assert torch.equal(nearest_direction(x, d, 3), nearest_direction(2.5 * x, d, 3))

    def test_simhash_reads_the_keys_of_fewest_differing_bits(self, lm) -> None:
        selection = SimHash(bits=64, k=6)
        picks = picks_of(lm, selection, 30)
        cache = Cache(lm)
        lm(ids(1, 30), cache)
        mean = cache.layers[0].keys.read().mean(dim=2, keepdim=True)
        with record(lm) as rec:
            lm(ids(1, 1), cache)
        d = selection.directions(mean)
        for head in range(2):
            key = (rec.keys[0] - mean)[0, head] @ d > 0
            q = rec.queries[0][0, 2 * head : 2 * head + 2, 0] @ d > 0
            apart = (key[None] != q[:, None]).sum((0, 2))
            chosen = picks[0].rows[0, head]
            assert len(chosen) == 6 and apart[chosen].max() <= apart.sort().values[5]

    def test_samples_add_up_to_attention(self) -> None:
        """Over many seeds the weighted samples give numerator and denominator of the softmax without bias."""
        keys, q = draw(1, 1, 60, 8), draw(1, 1, 1, 8, seed=1)
        view = View(Passing(keys), Passing(keys), torch.arange(60).view(1, 1, 60))
        weights = (q[0, 0, 0] @ keys[0, 0].T).exp()
        total = torch.zeros(60, dtype=torch.float64)
        step = Step(torch.zeros(1, 1), torch.tensor([[59]]), torch.tensor([59]), view.positions, True)
        for seed in range(400):
            lsh = LSHSampling(bits=2, tables=6, sinks=1, recent=2, seed=seed)
            view.index = Index(lsh)
            view.index.update(keys, view.positions, 60)
            pick = lsh.choose(q, view, torch.ones(1, 1, 1, 60, dtype=torch.bool), 1.0, step)
            total[pick.rows[0, 0]] += weights[pick.rows[0, 0]] * pick.bias[0, 0, 0].exp()
        assert float(total.sum() / 400 / weights.sum()) == pytest.approx(1, abs=0.05)
        assert torch.allclose(total[[0, 58, 59]] / 400, weights[[0, 58, 59]])

    @pytest.mark.parametrize(
        "selection", [LSHSampling(4, 10, recent=3), Buckets(4, 2, recent=3), SimHash(16, 4)]
    )
    def test_a_step_is_finite_and_what_is_unread_does_not_matter(self, lm, selection) -> None:
        text, mask = ids(2, 30), torch.ones(2, 30, dtype=torch.bool)
        mask[0, :9] = False
        cache = Cache(lm, selection=selection)
        lm(text[:, :29], cache, mask[:, :29])
        twin = cache.fork()
        with record(lm) as rec:
            logits = lm(text[:, 29:], cache)
        for layer in range(3):
            unread = ~rec.read[layer][:, :, 0, :29]
            unread[..., 0] = False  # read in place of what a head lacks beside heads that found more
            assert bool(unread.any())
            twin.layers[layer].values.rest.data[:, :, :29][unread] = float("nan")
        assert bool(logits.isfinite().all()) and torch.equal(lm(text[:, 29:], twin), logits)


class TestHeads:
    def test_each_head_has_its_own_mask(self) -> None:
        """Against a softmax in numpy, head by head, for a prompt and for its last token."""
        q, keys, values = draw(1, 6, 20, 4), draw(1, 3, 20, 4, seed=1), draw(1, 3, 20, 4, seed=2)
        sinks = AShape(2, 3)
        by_head, at = ByHead([sinks, None, sinks]), torch.arange(20).view(1, 20)
        view = View(Passing(keys), Passing(values), at.view(1, 1, 20))
        step = Step(at, at, at[0], view.positions, True)
        last = Step(at[:, -1:], at[:, -1:], at[0, -1:], view.positions, True)
        view.heads = 3
        prompt = attend_prompt(by_head, Question(q, view, None, 0.5, step))
        token = attend_selected(by_head, Question(q[:, :, -1:], view, None, 0.5, last))
        for head in range(6):
            for i in range(20):
                seen = [j for j in range(i + 1) if head // 2 == 1 or j < 2 or j > i - 3]
                k, v = keys[0, head // 2, seen].numpy(), values[0, head // 2, seen].numpy()
                w = np.exp(k @ q[0, head, i].numpy() * 0.5)
                assert np.allclose(prompt.out[0, head, i], w @ v / w.sum(), atol=1e-12)
            assert np.allclose(token.out[0, head, 0], w @ v / w.sum(), atol=1e-12)
        assert token.entries == 5 + 20 + 5 and token.bytes_read == 30 * 2 * 4 * 8

    def test_duo_reads_all_for_retrieval_heads_only(self, lm) -> None:
        cache = Cache(lm, selection=Duo({(0, 1), (2, 0), (2, 1)}, sinks=2, recent=3))
        lm(ids(1, 30), cache)
        lm(ids(1, 1), cache)
        assert [layer.entries_read for layer in cache.layers] == [5 + 31, 5 + 5, None]

    def test_a_head_that_copies_scores_one(self, lm) -> None:
        scores = copy_scores(lm, tokens=8)
        assert scores.shape == (3, 4) and bool(((scores >= 0) & (scores <= 1)).all())
        planted = torch.zeros(3, 4)
        planted[2, 1], planted[0, 3], planted[0, 2] = 0.9, 0.8, 0.7
        assert retrieval_heads(lm, 2, planted) == [(0, 1), (2, 0)]
        with pytest.raises(ValueError, match="6 KV heads; 7"):
            retrieval_heads(lm, 7)


REFUSED = {
    "TopK": (lambda: TopK(0), "k >= 1"),
    "Quest, page": (lambda: Quest(page_size=0), "page_size >= 1"),
    "Quest, pages": (lambda: Quest(pages=0), "pages >= 1"),
    "SparQ": (lambda: SparQ(r=0), "r >= 1"),
    "SimHash": (lambda: SimHash(bits=12), "multiples of 8"),
    "LSHSampling": (lambda: LSHSampling(bits=16), "1 to 15"),
    "Buckets": (lambda: Buckets(buckets=7), "even number"),
    "ByHead": (lambda: ByHead([TopK(4)]), "fixed patterns"),
    "Duo": (lambda: Duo({(0, -1)}), "from 0 on"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_parameters_are_refused_at_once(name: str) -> None:
    make, says = REFUSED[name]
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"selection": Quest(first=0), "store": "hybrid"}, "a ring writes over its slots"),
        ({"selection": Quest(), "eviction": KeepAll(plain_keys=True)}, "turns them to new positions"),
        ({"selection": ByHead([None])}, "2 KV head"),
        ({"selection": Duo({(1, 5)})}, "KV head 5"),
    ],
)
def test_what_cannot_work_is_refused_with_the_cache(knobs: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cache(model(), **knobs)


@pytest.mark.parametrize(
    "selection", [HalfAndHalf(), AllPages(3), AllCodes()], ids=["heads", "pages", "codes"]
)
@pytest.mark.parametrize("codec", [ExactBlocks(), ExactBlocks(plain_keys=True), ExactBlocks(1, 0, 0)])
def test_through_a_codec_the_same_entries_are_read(lm, selection, codec) -> None:
    text = ids(1, 40)
    plain, coded = Cache(lm), Cache(lm, selection=selection, codec=codec)
    for a, b in ((0, 21), (21, 30), *((i, i + 1) for i in range(30, 40))):
        assert same(lm(text[:, a:b], coded), lm(text[:, a:b], plain))


def test_a_step_that_selects_is_not_compiled(lm) -> None:
    reason = why_not(Cache(lm, store="static", capacity=8, selection=TopK(4)))
    assert reason is not None and "other entries at every token" in reason
