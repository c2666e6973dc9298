"""One loop for naive recompute, every cache and the compiled step: the same text from all of them."""

from __future__ import annotations

import pytest
import torch

import kvlab
from kvlab.compiled import CompiledStep, has_compiler

PROMPT = "The cat is on the mat"


@pytest.fixture
def lm(tiny):
    return tiny


def caches(lm, tokens: int = 200) -> dict[str, kvlab.Cache | None]:
    return {
        "naive": None,
        "none": kvlab.Cache(lm, store="none"),
        "dynamic": kvlab.Cache(lm),
        "static": kvlab.Cache(lm, store="static", capacity=tokens),
    }


def generate(lm, prompt, cache=None, **options):
    return kvlab.generate(lm, prompt, cache, **{"compile": False, "stop_tokens": [], **options})


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 3}], ids=["greedy", "drawn"]
)
def test_every_cache_gives_the_same_tokens(lm, options) -> None:
    outs = {
        name: generate(lm, PROMPT, cache, max_new_tokens=20, **options).ids
        for name, cache in caches(lm).items()
    }
    assert len(outs["naive"]) == 20
    assert all(ids == outs["naive"] for ids in outs.values()), outs


def test_a_prompt_is_text_or_ids(lm) -> None:
    ids = lm.tokenizer.encode(PROMPT)
    wanted = generate(lm, PROMPT, max_new_tokens=6)
    for prompt in (ids, torch.tensor(ids)):
        assert generate(lm, prompt, max_new_tokens=6).ids == wanted.ids
    assert wanted.prompt_ids == ids and wanted.stopped == "length" and str(wanted) == wanted.text


def test_a_batch_is_its_prompts_one_by_one(lm) -> None:
    prompts = ["The cat", PROMPT, "A much longer text about a dog and a sofa"]
    alone = [generate(lm, p, kvlab.Cache(lm), max_new_tokens=12).ids for p in prompts]
    static = kvlab.Cache(lm, store="static", capacity=80, batch=3)
    for cache in (None, kvlab.Cache(lm), static):
        assert [g.ids for g in generate(lm, prompts, cache, max_new_tokens=12)] == alone


def test_rows_that_stop_leave_the_others_undisturbed(lm) -> None:
    prompts = ["The cat", PROMPT]
    alone = [generate(lm, p, max_new_tokens=12).ids for p in prompts]
    end = alone[0][3]  # the first row's fourth token ends a text
    wanted = [ids[: ids.index(end) + 1] if end in ids else ids for ids in alone]
    cache = kvlab.Cache(lm)
    got = generate(lm, prompts, cache, max_new_tokens=12, stop_tokens=[end])
    assert [g.ids for g in got] == wanted and got[0].stopped == "token"


def test_a_cache_is_the_context(lm) -> None:
    ids = lm.tokenizer.encode(PROMPT + ", and the dog is on the sofa")
    cache = kvlab.Cache(lm)
    lm(torch.tensor([ids[:7]]), cache)
    assert generate(lm, ids[7:], cache, max_new_tokens=8).ids == generate(lm, ids, max_new_tokens=8).ids
    assert int(cache.tokens_seen) == len(ids) + 7  # all but the last new token


def test_a_stop_string_ends_the_text_and_is_cut(lm) -> None:
    whole = generate(lm, PROMPT, max_new_tokens=30).text
    stop = whole[10:12]
    got = generate(lm, PROMPT, max_new_tokens=30, stop=["never there", stop])
    assert got.stopped == "string" and got.text == whole[: whole.index(stop)]


def test_the_stream_adds_up_to_the_text(lm) -> None:
    for options in ({}, {"temperature": 1.0, "seed": 5}):
        pieces = list(kvlab.stream(lm, PROMPT, max_new_tokens=30, stop_tokens=[], **options))
        text = generate(lm, PROMPT, max_new_tokens=30, **options).text
        assert "".join(pieces) == text and len(pieces) > 1


def test_the_stream_holds_back_what_may_be_a_stop_string(lm) -> None:
    whole = generate(lm, PROMPT, max_new_tokens=30).text
    stop = whole[12:16]
    pieces = list(kvlab.stream(lm, PROMPT, max_new_tokens=30, stop_tokens=[], stop=stop))
    assert "".join(pieces) == whole[: whole.index(stop)]


def test_seeds_decide_the_draws(lm) -> None:
    one, same, other = (
        generate(lm, PROMPT, temperature=1.0, seed=s, max_new_tokens=30).ids for s in (1, 1, 2)
    )
    assert one == same and one != other


def test_too_small_a_cache_is_refused_before_anything_runs(lm) -> None:
    cache = kvlab.Cache(lm, store="static", capacity=10)
    with pytest.raises(kvlab.CacheError, match=r"capacity is 10.*capacity=\d+"):
        generate(lm, PROMPT, cache, max_new_tokens=20)
    assert cache.used == 0 and cache.remaining == 10


@pytest.mark.parametrize(
    "prompt, options, word",
    [
        ("", {}, "empty"),
        ([], {}, "empty"),
        ([[1, 2], []], {}, "empty"),
        ([10**9], {}, "vocabulary"),
        ([-1], {}, "vocabulary"),
        (PROMPT, {"max_new_tokens": 0}, "max_new_tokens"),
        (PROMPT, {"temperature": -1}, "temperature"),
        (PROMPT, {"compile": True}, "static"),
    ],
)
def test_bad_input_is_named(lm, prompt, options, word) -> None:
    with pytest.raises(ValueError, match=word):
        generate(lm, prompt, kvlab.Cache(lm), **options)


def test_text_needs_a_tokenizer() -> None:
    lm = kvlab.random("tiny", device="cpu")
    if lm.tokenizer is not None:
        lm.tokenizer = None
    with pytest.raises(ValueError, match="token ids"):
        generate(lm, PROMPT)
    assert len(generate(lm, [1, 2, 3], max_new_tokens=5).ids) == 5
    with pytest.raises(ValueError, match="stop_tokens"):
        generate(lm, [1, 2, 3], stop="x")


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
def test_the_compiled_step_is_the_same_decoder(lm) -> None:
    wanted = generate(lm, PROMPT, max_new_tokens=24).ids
    cache = kvlab.Cache(lm, store="static", capacity=64)
    assert generate(lm, PROMPT, cache, max_new_tokens=24, compile=None).ids == wanted
    cache.crop(5)  # roll back and go on: the compiled step follows the ledger
    ids = torch.tensor([lm.tokenizer.encode(PROMPT)])
    eager = kvlab.Cache(lm)
    lm(ids[:, :5], eager)
    step = CompiledStep(lm, cache)
    for i in range(5, ids.shape[1]):
        assert torch.allclose(step(ids[:, i : i + 1]), lm(ids[:, i : i + 1], eager), atol=1e-4)
    assert torch.equal(cache.tokens_seen, eager.tokens_seen)
    with pytest.raises(kvlab.CacheError, match="one token"):
        step(ids)
    cache = kvlab.Cache(lm, store="static", capacity=3)
    step = CompiledStep(lm, cache)
    for i in range(3):
        step(ids[:, i : i + 1])
    with pytest.raises(kvlab.CacheError, match="capacity is 3"):
        step(ids[:, :1])
    assert int(cache.tokens_seen) == 3
