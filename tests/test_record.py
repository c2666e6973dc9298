"""`kvlab.record`: the maps that attention made, and nothing changed by looking."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from small import CONFIG, ids, model, same

from kvlab import Cache, Int8, SinkRecent, record

CACHES = {
    "none": {"store": "none"},
    "dynamic": {},
    "static": {"store": "static", "capacity": 16, "batch": 2},
    "int8": {"codec": Int8()},
    "sink + recent": {"eviction": SinkRecent(1, 4)},
}
TEXT = ids(2, 12)


@pytest.fixture(scope="module")
def lm():
    return model()


def test_shapes(lm) -> None:
    with record(lm) as rec:
        lm(TEXT)
    assert list(rec.attention) == list(rec.queries) == list(rec.keys) == list(rec.values) == [0, 1, 2]
    assert rec.attention[0].shape == (2, 4, 12, 12)
    assert rec.queries[0].shape == (2, 4, 12, 4)
    assert rec.keys[0].shape == rec.values[0].shape == (2, 2, 12, 4)


def test_maps_are_softmax_of_the_recorded_queries_and_keys(lm) -> None:
    """By hand: head by head, position by position, in plain Python."""
    with record(lm) as rec:
        lm(TEXT)
    for layer in range(3):
        window = CONFIG.window(layer) or 100
        for head in range(4):
            q, k = rec.queries[layer][0, head], rec.keys[layer][0, head // 2]
            for i in range(12):
                scores = {j: math.exp(float(q[i] @ k[j]) / 2) for j in range(max(0, i - window + 1), i + 1)}
                wanted = torch.zeros(12, dtype=torch.float64)
                for j, score in scores.items():
                    wanted[j] = score / sum(scores.values())
                assert same(rec.attention[layer][0, head, i], wanted)


def test_maps_times_values_give_what_the_layer_passed_on(lm) -> None:
    passed = []
    hooks = [
        b.self_attn.o_proj.register_forward_pre_hook(lambda _, x: passed.append(x[0])) for b in lm.layers
    ]
    with record(lm) as rec:
        lm(TEXT)
    for hook in hooks:
        hook.remove()
    for layer, x in enumerate(passed):
        mixed = rec.attention[layer] @ rec.values[layer].repeat_interleave(2, dim=1)
        assert same(mixed.transpose(1, 2).reshape(2, 12, -1), x)


@pytest.mark.parametrize("kind", CACHES)
def test_with_a_cache_and_padding(lm, kind: str) -> None:
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :3] = False
    cache, unseen = Cache(lm, **CACHES[kind]), Cache(lm, **CACHES[kind])
    for start, end in ((0, 9), (9, 11), (11, 12)):
        part = slice(start, end)
        plain = lm(TEXT[:, part], unseen, mask[:, part])
        with record(lm) as rec:
            logits = lm(TEXT[:, part], cache, mask[:, part])
        assert torch.equal(logits, plain)
        for attention in rec.attention.values():
            assert same(attention.sum(-1), torch.ones(()).double())
    assert torch.equal(cache.tokens_stored, unseen.tokens_stored)


def test_maps_are_causal_and_blind_to_padding_and_free_slots(lm) -> None:
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :3] = False
    cache = Cache(lm, store="static", capacity=16, batch=2)
    with record(lm) as rec:
        lm(TEXT, cache, mask)
    for layer in range(3):
        attention = rec.attention[layer]  # [batch, heads, 12, 16]
        real = attention[1, :, 3:]  # what a padding query sees is nobody's business
        assert attention[0].triu(1).abs().max() == 0 and real.triu(4).abs().max() == 0
        assert real[..., :3].max() == 0 and real[..., 3:12].max() > 0
        if CONFIG.window(layer):
            outside = attention[0].tril(-CONFIG.window(layer))
            assert outside.abs().max() == 0


def test_a_recorded_decode_step_is_the_last_row_of_the_whole(lm) -> None:
    with record(lm) as whole:
        lm(TEXT)
    cache = Cache(lm)
    lm(TEXT[:, :11], cache)
    with record(lm) as step:
        lm(TEXT[:, 11:], cache)
    for layer in range(3):
        assert same(step.attention[layer][:, :, 0], whole.attention[layer][:, :, -1])
        assert same(step.keys[layer], whole.keys[layer]) and same(step.values[layer], whole.values[layer])


def test_what_is_recorded_stays_when_the_cache_goes_on(lm) -> None:
    cache = Cache(lm, store="static", capacity=16, batch=2)
    with record(lm) as rec:
        lm(TEXT[:, :5], cache)
    keys = rec.keys[0].clone()
    cache.crop(0)
    lm(TEXT[:, 5:10], cache)
    assert torch.equal(rec.keys[0], keys)


def test_the_last_call_is_the_one_that_stays(lm) -> None:
    with record(lm) as rec:
        lm(TEXT[:, :5])
        lm(TEXT[:, :7])
    assert rec.attention[2].shape[-1] == 7


def test_outside_the_block_nothing_is_recorded(lm) -> None:
    with record(lm) as rec:
        pass
    lm(TEXT)
    assert rec.attention == {} and lm.recording is None


def test_an_error_inside_ends_the_recording(lm) -> None:
    with pytest.raises(ZeroDivisionError), record(lm):
        1 / 0  # noqa: B018
    assert lm.recording is None


def test_another_thread_has_its_own_recording_or_none(lm) -> None:
    seen: list[int] = []

    def beside() -> None:
        lm(TEXT[:, :4])
        with record(lm) as its:
            lm(TEXT[:, :3])
        seen.append(its.attention[0].shape[-1])

    other = threading.Thread(target=beside)
    with record(lm) as mine:
        lm(TEXT[:, :5])
        other.start()
        other.join()
        assert mine.attention[0].shape[-1] == 5
    assert seen == [3] and lm.recordings == {}


def test_two_recordings_at_once_are_refused(lm) -> None:
    with record(lm) as outer:
        with pytest.raises(RuntimeError, match="recorded already"), record(lm):
            pass
        lm(TEXT)
    assert len(outer.attention) == 3
