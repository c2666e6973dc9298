"""A cache beside the ids that it was made from: what is wrong in it is named, and a right one is let be."""

from __future__ import annotations

import functools

import pytest
import torch
from doctor_plants import gemma3, gpt2, llama, mistral, static

import kvlab
from kvlab.doctor import check
from kvlab.doctor.loose import Loose
from kvlab.doctor.schedule import text
from kvlab.model.rotary import angles, rotate

pytestmark = pytest.mark.usefixtures("no_gradients")
ROWS, TOKENS = 2, 12


@functools.cache
def tiny():
    return kvlab.load("tiny", device="cpu")


def ids(seed=1, rows=ROWS, tokens=TOKENS):
    return text(97, tokens, seed, rows)


def made(lm, tokens, cache=None, sizes=None):
    """A cache after these tokens, passed in calls of `sizes`."""
    cache = kvlab.Cache(lm) if cache is None else cache
    for part in tokens.split(sizes or [5, 1, tokens.shape[1] - 6], dim=1):
        lm(part, cache)
    return cache


def theirs(model, tokens, cache=None):
    """transformers' cache after these tokens."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config) if cache is None else cache
    for part in tokens.split([5, 1, tokens.shape[1] - 6], dim=1):
        model(part, past_key_values=cache)
    return cache


def long():
    return ids(tokens=40)


def of_kvlab(name, tokens, **told):
    lm = kvlab.load(name, device="cpu", dtype=told.pop("dtype", None))
    return lm, made(lm, tokens, kvlab.Cache(lm, **told)), tokens


def cropped():
    lm, cache, tokens = of_kvlab("tiny", long())
    cache.crop(20)
    return lm, cache, tokens[:, :20]


def of_transformers(model, tokens, capacity=None):
    return model, theirs(model, tokens, capacity and static(model, capacity)()), tokens


RIGHT = {
    "dynamic": lambda: of_kvlab("tiny", ids()),
    "static": lambda: of_kvlab("tiny", ids(), store="static", capacity=20, batch=ROWS),
    "dynamic, windows": lambda: of_kvlab("tiny-gemma3", long()),
    "rings": lambda: of_kvlab("tiny-gemma3", long(), store="hybrid"),
    "bfloat16": lambda: of_kvlab("tiny", ids(), dtype="bfloat16"),
    "cropped": cropped,
    "Llama": lambda: of_transformers(llama(), ids()),
    "Llama, static": lambda: of_transformers(llama(), ids(), 20),
    "GPT-2": lambda: of_transformers(gpt2(), ids()),
    "Mistral, window of 8": lambda: of_transformers(mistral(8), long()),
    "Gemma 3": lambda: of_transformers(gemma3(), long()),
    "Gemma 3, static": lambda: of_transformers(gemma3(), long(), 50),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_cache_is_let_be(name):
    lm, cache, tokens = RIGHT[name]()
    report = check(lm, cache, ids=tokens)
    assert report.ok and not report.findings, str(report)
    assert set(report.passed) == {"rows", "tokens", "positions", "layers"}
    assert check(lm, cache, ids=tokens).ok  # it was only looked at


def test_padding_is_told_by_a_mask():
    lm, tokens = tiny(), ids()
    mask = torch.arange(TOKENS) >= torch.tensor([[0], [4]])
    cache = kvlab.Cache(lm)
    lm(tokens, cache, mask)
    assert check(lm, cache, ids=tokens, mask=mask).ok
    assert not check(lm, cache, ids=tokens).ok


# --- wrong ---


def loose(lm, tokens, **told):
    cache = Loose(lm)
    cache(tokens, **told)
    return cache


def turned(lm, tokens, by, of=slice(None)):
    """Keys rotated by so many positions more."""
    cache = loose(lm, tokens)
    cos, sin = angles(by[None, None, of], lm.kinds["full"].frequencies, lm.dtype)
    for layer in cache.layers:
        layer.keys = layer.keys.clone()
        layer.keys[:, :, of] = rotate(layer.keys[:, :, of], cos, sin)
    return cache


def step_by_step(lm, tokens, at):
    """One token a call, at positions `at(past)`."""
    cache = Loose(lm)
    for token in tokens.split(1, dim=1):
        cache(token, torch.tensor([at(cache.length)]))
    return cache


def without(cache, gone):
    cache.keep([i for i in range(TOKENS) if i not in gone])
    return cache


def reordered(cache, layers=slice(None), keys=True):
    for layer in cache.layers[layers]:
        layer.keys, layer.values = layer.keys.flip(0) if keys else layer.keys, layer.values.flip(0)
    return cache


def blind(lm, tokens):
    return loose(lm, tokens, mask=torch.ones(TOKENS, TOKENS, dtype=torch.bool))


def diverging(lm, tokens):
    other = tokens.clone()
    other[:, 7:] = ids(2)[:, 7:]
    return loose(lm, other)


def lasting(lm, tokens):
    """The whole text, and its last token again."""
    return loose(lm, torch.cat((tokens, tokens[:, -1:]), dim=1))


def forgotten(lm, tokens):
    """kvlab's own cache, of which one entry was freed."""
    cache = made(lm, tokens)
    cache.forget([6])
    return cache


def slot_written_over(lm, tokens):
    cache = made(lm, tokens)
    cache.layers[2].values.read()[:, :, 4] += 1.0
    return cache


STEPS = torch.arange(TOKENS)
WRONG = {
    "another prompt": (lambda lm, t: made(lm, ids(2)), "another-prompts-cache", 0),
    "another prompt from token 7": (diverging, "another-prompts-cache", 7),
    "the prompt twice": (lambda lm, t: loose(lm, torch.cat((t, t), 1)), "cache-covers-prompt", TOKENS),
    "its last token twice": (lasting, "cache-covers-prompt", TOKENS),
    "a longer text": (
        lambda lm, t: loose(lm, torch.cat((t, ids(2)[:, :3]), 1)),
        "shared-prefix-in-place",
        TOKENS,
    ),
    "behind another text": (
        lambda lm, t: loose(lm, torch.cat((ids(2)[:, :3], t), 1)),
        "static-not-reset | another-prompts-cache",
        0,
    ),
    "rotated twice": (lambda lm, t: turned(lm, t, STEPS), "mixed-rotation", 1),
    "not rotated": (lambda lm, t: turned(lm, t, -STEPS), "mixed-rotation", 1),
    "prompt not rotated": (lambda lm, t: turned(lm, t, -STEPS, slice(0, 5)), "mixed-rotation", 1),
    "an entry missing": (lambda lm, t: without(loose(lm, t), [3]), "entry-missing", 3),
    "an entry forgotten": (forgotten, "entry-missing", 6),
    "the last missing": (lambda lm, t: without(loose(lm, t), [10, 11]), "entry-missing", 10),
    "the oldest missing": (lambda lm, t: without(loose(lm, t), [0, 1]), "capacity-becomes-window", 0),
    "rows permuted": (lambda lm, t: reordered(loose(lm, t)), "rows-permuted", 0),
    "values permuted": (lambda lm, t: reordered(loose(lm, t), keys=False), "rows-permuted", 0),
    "one layer's rows permuted": (lambda lm, t: reordered(loose(lm, t), slice(1, 2)), "rows-permuted", 0),
    "one too far": (lambda lm, t: step_by_step(lm, t, lambda n: n + (n > 5)), "offset-by-one", 6),
    "all at position 0": (lambda lm, t: step_by_step(lm, t, lambda n: 0), "positions-restart", 1),
    "positions restart": (lambda lm, t: step_by_step(lm, t, lambda n: n % 6), "positions-restart", 6),
    "no mask": (blind, "no-mask-in-chunk", 0),
    "written over": (slot_written_over, "unknown", 4),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_cache_holds_wrongly_is_named(name):
    make, told, token = WRONG[name]
    report = check(tiny(), make(tiny(), ids()), ids=ids())
    assert [finding.name for finding in report.findings] == [told], str(report)
    assert not report.ok and report.findings[0].token == token, str(report)
    assert report.findings[0].fix and not report.passed


def test_the_layer_that_goes_wrong_is_told():
    found = check(tiny(), reordered(loose(tiny(), ids()), slice(1, 2)), ids=ids()).findings[0]
    assert found.layer == 1 and "row 0 holds entries of row 1" in found.evidence


@pytest.mark.parametrize("model", [llama, gpt2], ids=lambda make: make.__name__)
def test_the_same_in_transformers(model):
    lm, tokens = model(), ids()
    assert check(lm, theirs(lm, ids(2)), ids=tokens).names == {"another-prompts-cache"}
    swapped = theirs(lm, tokens)
    swapped.reorder_cache(torch.tensor([1, 0]))
    assert check(lm, swapped, ids=tokens).names == {"rows-permuted"}
    covered = theirs(lm, tokens)
    lm(tokens, past_key_values=covered)
    assert check(lm, covered, ids=tokens).names == {"cache-covers-prompt"}
    short = theirs(lm, tokens)
    short.crop(-3)
    assert check(lm, short, ids=tokens).names == {"entry-missing"}


def test_a_loss_that_is_meant_is_told_with_its_size():
    lm = tiny()
    report = check(lm, made(lm, ids(), kvlab.Cache(lm, codec=kvlab.Int8())), ids=ids())
    assert report.ok and report.names == {"lossy"} and "Int8" in report.findings[0].evidence
    report = check(lm, made(lm, ids(2), kvlab.Cache(lm, codec=kvlab.Int8())), ids=ids())
    assert not report.ok and report.names == {"another-prompts-cache"}
    report = check(lm, made(lm, ids(), kvlab.Cache(lm, eviction=kvlab.SinkRecent(2, 5))), ids=ids())
    assert report.ok and report.names == {"lossy"}
