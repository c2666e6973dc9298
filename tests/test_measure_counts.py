"""FLOPs and bytes: by hand, by PyTorch's own counter, and by the sizes of real tensors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import kvlab
from kvlab.measure import (
    Flops,
    cache_bytes,
    cache_bytes_per_token,
    decode_bytes,
    decode_flops,
    forward_flops,
    generation_flops,
    naive_flops,
    prefill_bytes,
    visible_pairs,
    weight_bytes,
    weights_read,
)
from kvlab.model.attention import may_see
from kvlab.model.config import Config
from kvlab.zoo import SHAPES

TINY = Config(
    name="by hand",
    vocab_size=10,
    hidden_size=4,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=2,
)


def test_one_forward_call_by_hand() -> None:
    # A token of a layer: q 4x4, k and v 4x2 each, o 4x4: 16 + 8 + 8 + 16 = 48 multiply-adds; three MLP
    # matrices of 24. Three new tokens after five see 6 + 7 + 8 = 21 keys, two heads of two numbers each.
    found = forward_flops(TINY, new=3, past=5, logits=1)
    assert found == Flops(
        projections=2 * 2 * 3 * 48, scores=2 * 2 * 21 * 4, mix=2 * 2 * 21 * 4, mlp=2 * 2 * 3 * 72, head=2 * 40
    )
    assert found.attention == 672
    assert found.total == 576 + 672 + 864 + 80
    assert forward_flops(TINY, new=3, past=5, logits=1, batch=4) == found.times(4)


def test_a_step_with_a_cache_and_without_by_hand() -> None:
    assert decode_flops(TINY, context=8).total == 2 * 2 * 48 + 2 * 2 * 2 * 8 * 4 + 2 * 2 * 72 + 80
    assert naive_flops(TINY, context=8).total == 8 * (192 + 288) + 2 * 2 * 2 * 36 * 4 + 80


@pytest.mark.parametrize(("prompt", "new"), [(1, 1), (5, 1), (5, 4)])
def test_a_generation_is_its_calls(prompt: int, new: int) -> None:
    first = forward_flops(TINY, prompt, logits=1)
    cached, naive = first, first
    for i in range(1, new):
        cached += forward_flops(TINY, 1, past=prompt + i - 1)
        naive += forward_flops(TINY, prompt + i, logits=1)
    assert generation_flops(TINY, prompt, new, cached=True) == cached
    assert generation_flops(TINY, prompt, new, cached=False) == naive


def test_naive_work_grows_faster_than_cached_work() -> None:
    config = SHAPES["smollm2-135m"]
    cached = [generation_flops(config, 1, n, cached=True).total for n in (500, 1000)]
    naive = [generation_flops(config, 1, n, cached=False).total for n in (500, 1000)]
    assert 1.9 < cached[1] / cached[0] < 2.2
    assert 3.8 < naive[1] / naive[0] < 4.5


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("new", "past"), [(1, 0), (1, 9), (5, 0), (5, 2), (7, 20)])
def test_visible_pairs_are_those_of_the_mask(new: int, past: int, window: int | None) -> None:
    positions = torch.arange(past + new)
    mask = may_see(positions[None, past:], positions[None, None], window)
    assert visible_pairs(new, past, window) == int(mask.sum())


def counted(function) -> int:
    """What torch's counter sees. Of CPU SDPA's fused kernel it counts nothing, so the plain path runs."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
@pytest.mark.parametrize("last_only", [False, True])
def test_a_forward_call_counts_what_torch_counts(name: str, last_only: bool) -> None:
    lm = kvlab.load(name, device="cpu")
    ids = torch.zeros(2, 13, dtype=torch.int64)
    expected = forward_flops(lm.config, 13, logits=1 if last_only else 13, batch=2, pairs="computed")
    assert counted(lambda: lm(ids, last_only=last_only)) == expected.total


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
def test_a_cached_step_and_a_chunk_count_what_torch_counts(name: str) -> None:
    lm = kvlab.load(name, device="cpu")
    cache = kvlab.Cache(lm)
    lm(torch.zeros(1, 6, dtype=torch.int64), cache)
    chunk, one = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    assert counted(lambda: lm(chunk, cache)) == forward_flops(lm.config, 3, 6, pairs="computed").total
    assert counted(lambda: lm(one, cache)) == forward_flops(lm.config, 1, 9, pairs="computed").total
    if name == "tiny":  # without a window a single query sees all that is computed
        assert forward_flops(lm.config, 1, 9, pairs="computed") == decode_flops(lm.config, 10)


@pytest.mark.parametrize(
    "wrong", [{"new": 0}, {"new": 1, "past": -1}, {"new": 2, "logits": 3}, {"new": 1, "batch": 0}]
)
def test_impossible_counts_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="new >= 1"):
        forward_flops(TINY, **wrong)


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weight_bytes_are_those_of_the_tensors(name: str, dtype: str) -> None:
    lm = kvlab.load(name, device="cpu", dtype=dtype)
    tensors = {id(p): p for p in lm.parameters()}.values()
    assert weight_bytes(lm.config, lm.dtype.itemsize) == sum(p.numel() * p.element_size() for p in tensors)


def test_weights_read_leave_out_the_table_that_is_only_looked_up() -> None:
    tied, untied = SHAPES["smollm2-135m"], SHAPES["llama2-7b"]
    assert weights_read(tied, 2) == weight_bytes(tied, 2) + 576 * 2
    assert weights_read(untied, 2, batch=3) == weight_bytes(untied, 2) - 32000 * 4096 * 2 + 3 * 4096 * 2


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
def test_cache_bytes_are_those_of_a_real_cache(name: str) -> None:
    lm = kvlab.load(name, device="cpu")
    cache = kvlab.Cache(lm)
    lm(torch.zeros(3, 11, dtype=torch.int64), cache)
    before = cache.nbytes
    assert before == cache_bytes(lm.config, 11, 4, batch=3) == cache.logical_bytes
    lm(torch.zeros(3, 1, dtype=torch.int64), cache)
    step = decode_bytes(lm.config, 12, 4, batch=3)
    assert cache.nbytes - before == step.cache_written
    if name == "tiny":  # this store keeps, and reads, what a sliding layer no longer sees
        assert cache.bytes_read == step.cache_read
    else:
        sliding, full = lm.config.layer_types.count("sliding"), lm.config.layer_types.count("full")
        assert step.cache_read == 2 * (sliding * 8 + full * 12) * 32 * 4 * 3
    assert step.total == step.weights + step.cache_read + step.cache_written


def test_known_caches() -> None:
    llama, small, gemma = SHAPES["llama2-7b"], SHAPES["smollm2-135m"], SHAPES["gemma3-270m"]
    assert cache_bytes_per_token(llama, 2) == 524_288
    assert cache_bytes(llama, 100_000, 2) == 52_428_800_000
    assert cache_bytes(llama, 102_400, 2) == 50 * 2**30
    assert cache_bytes_per_token(small, 2) == 23_040
    assert cache_bytes_per_token(gemma, 4) == 36_864
    grown = cache_bytes(gemma, 1025, 4, windows=True) - cache_bytes(gemma, 1024, 4, windows=True)
    assert grown == 6_144


def test_prefill_writes_what_a_cache_holds() -> None:
    found = prefill_bytes(TINY, tokens=7, itemsize=4, batch=2)
    assert found.cache_written == cache_bytes(TINY, 7, 4, batch=2)
    assert found.weights == weight_bytes(TINY, 4) + 14 * 4 * 4
