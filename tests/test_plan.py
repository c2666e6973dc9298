"""`kvlab.plan` against real caches and models, published figures, and numbers made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CONFIG, ids, model, storages

import kvlab
from kvlab import Cache, Int8, cli
from kvlab.measure import decode_bytes, read_report
from kvlab.measure.memory import MORE, PROMPT
from kvlab.measure.outline import OTHERS, outline, presets
from kvlab.measure.plan import Plan
from kvlab.measure.plan_cli import size
from kvlab.measure.resident import peak_bytes, resident_bytes
from kvlab.model.decoder import Decoder
from kvlab.zoo import SHAPES

GB, GIB = 10**9, 2**30


pytestmark = pytest.mark.usefixtures("no_gradients")


# --- against real caches --------------------------------------------------------------------------------


def filled(lm: Decoder, prompt: int, tokens: int, batch: int, **knobs: Any) -> Cache:
    cache = Cache(lm, **knobs, **({"batch": batch} if "capacity" in knobs else {}))
    lm(ids(batch, prompt), cache, last_only=True)
    for _ in range(tokens - prompt):
        lm(ids(batch, 1), cache)
    return cache


def planned(lm: Decoder, tokens: int, batch: int = 1, **how: Any) -> Plan:
    width = 8 * lm.dtype.itemsize
    return kvlab.plan(lm, tokens, batch, **{"bits": width, "weight_bits": width, **how})


POINTS = [(9, 9), (9, 10), (9, 19), (3, 25), (1, 17)]  # (prompt, tokens): in one go, then singly
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "dynamic": {},
    "static": {"capacity": 32},
    "hybrid": {},
    "hybrid, fixed": {"capacity": 32},
    "sliding": {},
    "sliding, fixed": {"capacity": 26},
}
MODELS = {
    "tiny": SHAPES["tiny"],
    "tiny-gemma3": SHAPES["tiny-gemma3"],  # windows of 8 in four of six layers
    "all slide": SHAPES["tiny"].replace(name="all slide", layer_types=("sliding",) * 4, sliding_window=11),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_stored_allocated_and_read_bytes_are_the_caches_own(way: str, name: str) -> None:
    batch = 2
    lm, store = kvlab.random(MODELS[name], device="cpu"), way.partition(",")[0]
    if store == "sliding" and name != "all slide":
        with pytest.raises(ValueError, match="layers that see everything"):
            planned(lm, 9, store=store)
        return
    for prompt, tokens in POINTS:
        cache = filled(lm, prompt, tokens, batch, store=store, **WAYS[way])
        found = planned(lm, tokens, batch, store=store, prompt=prompt, **WAYS[way])
        assert (found.cache_bytes, found.allocated_bytes) == (cache.nbytes, cache.allocated_bytes)
        for mine, real in zip(found.layers, cache.layers, strict=True):
            assert mine.stored_bytes == real.stored_bytes(cache.used)
        assert found.rest_bytes == cache.ledger_bytes + 4 * found.model.rotary
        assert cache.used == prompt or found.step.cache_read == cache.bytes_read


@pytest.mark.parametrize("width", [torch.float64, torch.float32, torch.bfloat16])
def test_the_bits_are_those_of_the_dtype(width: torch.dtype) -> None:
    lm = kvlab.load("tiny", device="cpu", dtype=width)
    assert planned(lm, 12).cache_bytes == filled(lm, 12, 12, 1).nbytes


@pytest.mark.parametrize(("prompt", "tokens"), POINTS)
def test_codes_count_with_their_scales(prompt: int, tokens: int) -> None:
    """Int8: 8 bits a number, and a scale of 16 bits for the head_dim numbers of a token and head."""
    lm = model()
    cache = filled(lm, prompt, tokens, 2, codec=Int8())
    found = kvlab.plan(CONFIG, tokens, 2, bits=8 + 16 / CONFIG.head_dim, prompt=prompt)
    assert (found.cache_bytes, found.allocated_bytes) == (cache.nbytes, cache.allocated_bytes)


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_weights_and_the_rest_are_all_that_a_model_and_its_cache_hold(name: str, dtype: str) -> None:
    lm = kvlab.load(name, device="cpu", dtype=dtype)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(lm)}
    cache = filled(lm, 9, 9, 2, store="static", capacity=16)
    found = planned(lm, 9, 2, store="static", capacity=16)
    assert found.weight_bytes + found.rest_bytes == sum(held.values()) + cache.ledger_bytes
    assert found.total_bytes == found.weight_bytes + found.rest_bytes + sum(storages(cache.layers).values())


def _tensors(lm: Decoder) -> list[torch.Tensor]:
    return [*lm.parameters(), *(b for b in lm.buffers() if b is not None)]


# --- windows --------------------------------------------------------------------------------------------

# Gemma 3 270M, float32, transformers 5.23: bytes of DynamicCache and StaticCache with and without the config.
GEMMA = {
    512: (18_843_648, 18_874_368, 18_874_368),
    1024: (21_989_376, 37_748_736, 22_020_096),
    2048: (28_280_832, 75_497_472, 28_311_552),
    4096: (40_863_744, 150_994_944, 40_894_464),
}


@pytest.mark.parametrize(("tokens", "table"), GEMMA.items())
def test_gemma3_holds_what_was_measured(tokens: int, table: tuple[int, int, int]) -> None:
    ways = ({"store": "hybrid"}, {"store": "dynamic"}, {"store": "hybrid", "capacity": tokens})
    found = [kvlab.plan("gemma3-270m", tokens, bits=32, **way) for way in ways]
    assert tuple(one.allocated_bytes if one.capacity else one.cache_bytes for one in found) == table
    large = kvlab.plan("gemma3-270m", tokens, bits=32, store="hybrid", capacity=4096)
    assert large.allocated_bytes == 40_894_464


def test_a_layer_with_a_window_keeps_what_the_next_token_sees() -> None:
    """Six layers, windows of 8 but in layers 2 and 5; one KV head of 32 numbers."""
    growing = kvlab.plan("tiny-gemma3", 20, store="hybrid")  # a ring of 8 slots, one of them free
    assert [layer.slots for layer in growing.layers] == [7, 7, 20, 7, 7, 20]
    fixed = kvlab.plan("tiny-gemma3", 20, store="hybrid", capacity=24)
    assert [layer.slots for layer in fixed.layers] == [layer.slots for layer in growing.layers]
    entry = 2 * 32 * 2
    assert [layer.allocated_bytes // entry for layer in fixed.layers] == [8, 8, 24, 8, 8, 24]
    assert (
        growing.step.cache_read
        == (4 * 8 + 2 * 20) * entry
        == decode_bytes(SHAPES["tiny-gemma3"], 20, 2).cache_read
    )
    assert growing.bytes_per_token == 2 * entry  # the full layers alone
    assert kvlab.plan("tiny-gemma3", 3, store="hybrid").bytes_per_token == 6 * entry


def test_a_window_can_be_tried_on_any_model() -> None:
    everywhere = kvlab.plan("llama2-7b", 100_000, store="sliding", window=4096)
    assert {layer.slots for layer in everywhere.layers} == {4095}
    assert everywhere.tokens_that_fit(24 * GB) is None
    assert kvlab.plan("llama2-7b", 100_000, store="hybrid").cache_bytes == 52_428_800_000  # none has one


# --- known models ---------------------------------------------------------------------------------------


def test_llama2_7b_at_100k_tokens_is_52_gb_or_49_gib() -> None:
    found = kvlab.plan("llama2-7b", tokens=100_000, batch=1, bits=16)
    assert found.bytes_per_token == 524_288 and found.cache_bytes == 52_428_800_000
    assert round(found.cache_bytes / GB, 2) == 52.43 and round(found.cache_bytes / GIB, 2) == 48.83
    assert kvlab.plan("llama2-7b", 102_400).cache_bytes == 50 * GIB
    assert found.weight_bytes == 2 * 6_738_415_616
    assert "52.43 GB" in repr(found) and "13.48 GB" in repr(found)


def test_what_a_token_costs() -> None:
    """In 16 bits, from the shapes by hand: 2 · layers · KV heads · head_dim · 2 bytes."""
    costs = {
        "smollm2-135m": 23_040,
        "llama3-8b": 2 * 32 * 8 * 128 * 2,
        "llama3-70b": 2 * 80 * 8 * 128 * 2,
        "gemma-2b": 2 * 18 * 1 * 256 * 2,
        "qwen3-8b": 2 * 36 * 8 * 128 * 2,
        "gemma3-27b": 2 * 62 * 16 * 128 * 2,
        "deepseek-v3": 61 * (512 + 64) * 2,
    }
    assert {name: kvlab.plan(name, 8).bytes_per_token for name in costs} == costs
    kinds = {name: outline(name).attention for name in ("llama2-7b", *costs)}
    assert kinds["llama2-7b"] == "MHA" and kinds["gemma-2b"] == "MQA" and kinds["deepseek-v3"] == "MLA"
    assert {kinds[n] for n in ("llama3-8b", "llama3-70b", "qwen3-8b", "gemma3-27b", "smollm2-135m")} == {
        "GQA"
    }


def test_deepseek_v3_has_its_published_size() -> None:
    """671B parameters of which a token uses 37B (arXiv:2412.19437, section 4.2)."""
    found = OTHERS["deepseek-v3"]
    assert round(found.parameters / 1e9) == 671
    assert round(found.read(1) / 1e9) == 37
    assert found.read(1) < found.read(2) < found.read(32) < found.parameters
    assert found.read(64) - found.read(63) == 7168, "all experts are read by then"
    assert found.numbers / len(found.layers) / (2 * 128) == 2.25  # groups of 128: arXiv:2405.04434, table 1


@pytest.mark.parametrize("name", presets())
def test_every_preset_names_its_source_and_can_be_planned(name: str) -> None:
    found = kvlab.plan(name, 100)
    assert found.model.source and found.model.longest > 0
    assert 0 < found.step.weights <= found.weight_bytes + 2 * 8192
    assert found.cache_bytes == 100 * found.bytes_per_token


def test_a_step_reads_what_decode_bytes_counts() -> None:
    for name, batch in (("smollm2-135m", 1), ("llama2-7b", 4)):
        assert kvlab.plan(name, 300, batch).step == decode_bytes(SHAPES[name], 300, 2, batch)
    static = kvlab.plan("smollm2-135m", 300, store="static", capacity=512).step
    assert static.cache_read == 512 * 23_040, "a static store reads its whole capacity"


# --- what fits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["dynamic", "static", "hybrid"])
@pytest.mark.parametrize("name", ["llama3-8b", "gemma3-270m"])
def test_what_fits_fits_and_one_more_does_not(name: str, store: str) -> None:
    found = kvlab.plan(name, 1000, 2, store=store)
    device = 24 * GB
    tokens, many = found.tokens_that_fit(device), found.sequences_that_fit(device)
    assert tokens is not None
    assert kvlab.plan(name, tokens, 2, store=store).fits(device)
    assert not kvlab.plan(name, tokens + 1, 2, store=store).fits(device)
    assert kvlab.plan(name, 1000, many, store=store).fits(device)
    assert not kvlab.plan(name, 1000, many + 1, store=store).fits(device)


def test_nothing_fits_where_the_weights_do_not() -> None:
    found = kvlab.plan("llama3-70b", 1000)
    assert not found.fits(24 * GB)
    assert (found.tokens_that_fit(24 * GB), found.sequences_that_fit(24 * GB)) == (0, 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "llama9"}, "no preset 'llama9'"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": 2.5}, "whole number"),
        ({"bits": -4}, "bits=-4"),
        ({"store": "sparse"}, "no store 'sparse'"),
        ({"window": 100}, 'store="hybrid"'),
        ({"store": "sliding"}, "layers that see everything"),
        ({"store": "static", "capacity": 9}, "capacity of 9"),
        ({"capacity": 99}, "has no capacity"),
        ({"prompt": 11}, "prompt=11"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kvlab.plan(**{"model": "tiny", "tokens": 10, **wrong})


# --- the command ----------------------------------------------------------------------------------------


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "llama2-7b", "--tokens", "100000", "--device", "80GB"]) == 0
    shown = capsys.readouterr().out
    assert "52,428,800,000  52.43  48.83" in shown and "adds 524,288 bytes" in shown
    assert "14.09 GB (13.13 GiB) to spare" in shown and "made for 4,096 tokens" in shown
    most = kvlab.plan("llama2-7b", 100_000).tokens_that_fit(80 * GB)
    assert f"1 sequence of up to {most:,} tokens" in shown and "2307.09288" in shown


def test_the_command_shows_layers_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "tiny-gemma3", "--tokens", "20", "--layers", "--device", "1MB"]) == 0
    shown = capsys.readouterr().out
    assert "4 of its 6 layers see a window only: --store hybrid" in shown
    assert sum(line.split()[:2] in (["2", "all"], ["5", "all"]) for line in shown.splitlines()) == 2
    assert cli.main(["plan", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in presets())


def test_the_command_refuses_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, words in (
        (["llama9"], "no preset"),
        ([], "which model?"),
        (["tiny", "--tokens", "0"], "tokens=0"),
    ):
        assert cli.main(["plan", *argv]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "tiny", "--device", "much"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GB", 24 * GB), ("24GiB", 24 * GIB), ("1.5g", 1_500_000_000), ("16e9", 16 * GB), ("7", 7)],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "24 XB", "-1GB", "1i"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        size(text)


# --- bench memory ---------------------------------------------------------------------------------------


def test_bench_memory_records_the_plan_the_cache_and_the_process(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    argv = ["--models", "tiny", "--contexts", "400", "--batches", "2", "--device", "cpu", "--threads", "1"]
    assert cli.main(["bench", "memory", *argv, "--out", str(out)]) == 0
    run = read_report(out)
    assert [(r["store"], r["moment"]) for r in run.rows] == [
        (store, moment) for store in ("dynamic", "static") for moment in ("made", PROMPT, MORE)
    ]
    token = 2 * 512 * 2  # of both sequences, float32
    assert [row["stored_bytes"] // token for row in run.rows] == [0, 400, 401] * 2
    assert [row["allocated_bytes"] // token for row in run.rows] == [0, 400, 800, 464, 464, 464]
    for row in run.rows:
        assert row["planned_stored_bytes"] == row["stored_bytes"]
        assert row["planned_allocated_bytes"] == row["allocated_bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_resident_bytes_follow_what_is_written() -> None:
    before = resident_bytes()
    block = torch.ones(40_000_000, dtype=torch.uint8)
    assert before is not None
    assert abs(resident_bytes() - before - block.numel()) < 8_000_000
    del block
    assert abs(resident_bytes() - before) < 8_000_000
    assert peak_bytes() >= resident_bytes()
