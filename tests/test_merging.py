"""Merging: exact where keys are equal, counted everywhere, and never what must stay apart."""

from __future__ import annotations

import pytest
import torch
from small import CONFIG, ids, model, same
from torch import Tensor

from kvlab import Cache
from kvlab.eviction import ConsecutiveMerge, LSHMerge, Merging
from kvlab.eviction.lsh_merge import simhash
from kvlab.model.attention import attend
from kvlab.stores import Knobs, Step
from kvlab.stores.dynamic import DynamicLayer

ALL_FULL = CONFIG.replace(name="all full", layer_types=("full",) * 3)
KINDS = pytest.mark.parametrize("kind", [ConsecutiveMerge, LSHMerge])


def filled(policy: Merging, keys: Tensor, values: Tensor) -> DynamicLayer:
    """A layer that took these `[1, kv_heads, tokens, head_dim]` in one step, and settled."""
    layer, tokens = DynamicLayer(Knobs(eviction=policy), 2.0), keys.shape[2]
    positions = torch.arange(tokens)[None]
    step = Step(positions, positions, positions[0], positions[:, None], in_order=True)
    view = layer.append(keys, values, step)
    layer.settle(torch.empty(0), None, view, step)
    return layer


def mixed(layer: DynamicLayer, query: Tensor) -> Tensor:
    """Attention of one query over what the layer holds, with its bias; no rotation."""
    bias = layer.knobs.eviction.bias(layer.columns, query.dtype)
    mask = (layer.ledger >= 0).unsqueeze(2)
    return attend(query, layer.keys.read(), layer.values.read(), mask, 0.5, bias=bias)


@pytest.fixture
def twins() -> tuple[Tensor, Tensor, Tensor]:
    """Sixteen tokens, of which 4 to 7 and 9 to 11 have equal keys; and a query."""
    draw = torch.Generator().manual_seed(4)
    keys, values = torch.randn(2, 1, 2, 16, 4, generator=draw, dtype=torch.float64)
    keys[:, :, 5:8] = keys[:, :, 4:5]
    keys[:, :, 10:12] = keys[:, :, 9:10]
    return keys, values, torch.randn(1, 4, 1, 4, generator=draw, dtype=torch.float64)


class TestEqualKeys:
    @KINDS
    def test_one_entry_with_its_count_is_worth_all_of_them(self, kind, twins) -> None:
        """Sixteen entries become eleven, and no query can tell."""
        keys, values, query = twins
        layer = filled(kind(11, sinks=2, recent=3), keys, values)
        assert layer.keys.slots == 11
        wanted = attend(query, keys, values, None, 0.5)
        assert (mixed(layer, query) - wanted).abs().max() < 1e-12
        assert layer.columns["count"][0, 0].tolist() == [1, 1, 1, 1, 4, 1, 3, 1, 1, 1, 1]
        assert layer.ledger[0, 1].tolist() == [0, 1, 2, 3, 7, 8, 11, 12, 13, 14, 15]

    @KINDS
    def test_without_the_count_it_is_not(self, kind, twins) -> None:
        keys, values, query = twins
        layer = filled(kind(11, sinks=2, recent=3, counted=False), keys, values)
        assert layer.knobs.eviction.bias(layer.columns, torch.float64) is None
        held = attend(query, layer.keys.read(), layer.values.read(), None, 0.5)
        assert (held - attend(query, keys, values, None, 0.5)).abs().max() > 1e-2

    def test_merged_twice_it_still_counts_every_token(self, twins) -> None:
        keys, values, query = twins
        keys = keys[:, :, 4:5].expand(-1, -1, 16, -1).contiguous()  # all alike
        layer = filled(ConsecutiveMerge(9, sinks=1, recent=2), keys, values)
        positions = torch.tensor([[16]])
        held = torch.cat((layer.ledger, positions[None].expand(1, 2, 1)), dim=2)
        step = Step(positions, positions, torch.tensor([16]), held, in_order=False)
        view = layer.append(keys[:, :, :1], values[:, :, :1], step)
        layer.settle(query, None, view, step)
        assert layer.columns["count"].sum(-1).tolist() == [[17, 17]]
        every = torch.cat((values, values[:, :, :1]), dim=2)
        wanted = attend(query, keys[:, :, :1].expand(-1, -1, 17, -1), every, None, 0.5)
        assert (mixed(layer, query) - wanted).abs().max() < 1e-12


class TestThroughTheModel:
    @KINDS
    def test_every_token_is_counted_once(self, kind) -> None:
        lm = model(config=ALL_FULL)
        cache = Cache(lm, eviction=kind(12, sinks=2, recent=4))
        for size in (30, 1, 1, 5, 1):
            lm(ids(1, size), cache)
            for layer in cache.layers:
                assert layer.columns["count"].sum(-1).tolist() == [[cache.used] * 2]
                assert layer.keys.slots == 12

    @KINDS
    def test_sinks_and_recent_tokens_stay_apart(self, kind) -> None:
        lm = model()
        cache = Cache(lm, eviction=kind(12, sinks=2, recent=4))
        lm(ids(1, 40), cache)
        for layer in cache.layers:
            for head in range(2):
                apart = [0, 1, 36, 37, 38, 39]
                held = layer.ledger[0, head].tolist()
                assert [p for p in held if p in apart] == apart
                assert all(layer.columns["count"][0, head, held.index(p)] == 1 for p in apart)

    @KINDS
    def test_with_room_for_all_nothing_changes(self, kind) -> None:
        lm, text = model(), ids(1, 30)
        assert same(lm(text, Cache(lm, eviction=kind(36, 2, 4))), lm(text))

    def test_the_count_reaches_attention(self) -> None:
        """The very same entries, with and without log(count): the next logits differ."""
        lm, text = model(), ids(1, 41)
        logits = []
        for counted in (True, False):
            cache = Cache(lm, eviction=ConsecutiveMerge(12, 2, 4, counted=counted))
            lm(text[:, :40], cache)
            logits.append(lm(text[:, 40:], cache))
        assert (logits[0] - logits[1]).abs().max() > 1e-3

    def test_a_crop_takes_a_merged_entry_with_its_newest_token(self) -> None:
        lm = model()
        cache = Cache(lm, eviction=ConsecutiveMerge(8, sinks=1, recent=2))
        lm(ids(1, 30), cache)
        held = cache.layers[0].ledger[0, 0].tolist()
        cut = held[4]  # the newest token of some entry
        cache.crop(cut)
        assert cache.layers[0].ledger[0, 0].tolist()[:4] == held[:4]
        assert max(cache.layers[0].ledger[0, 0].tolist()) < cut
        lm(ids(1, 1), cache)
        assert cache.layers[0].ledger[0, 0].max() == cut


def test_near_keys_share_long_beginnings_of_their_hashes() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 200, 32, generator=draw)
    near = x + 0.02 * torch.randn(x.shape, generator=draw)
    codes = simhash(torch.cat((x, near), dim=2), torch.ones(1, 1, 400, dtype=torch.bool), bits=16)[0, 0]
    apart = [bin(int(a ^ b)).count("1") for a, b in zip(codes[:200], codes[200:], strict=True)]
    random = [bin(int(a ^ b)).count("1") for a, b in zip(codes[:199], codes[1:200], strict=True)]
    assert sum(apart) / 200 < 0.5 < 6 < sum(random) / 199  # 16 bits: unrelated vectors differ in half of them
    assert codes.min() >= 0 and codes.max() < 2**16
