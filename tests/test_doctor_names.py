"""The doctor names every misuse of the development plants, and says what it can without a model."""

from __future__ import annotations

import functools

import pytest
import torch
from doctor_plants import at, mistral, plants, under, wrapper, x_step

import kvlab
from kvlab.doctor import Confusion, Finding, Subject, check, confusion
from kvlab.doctor.gallery import GALLERY
from kvlab.doctor.names import FIXES, WRONG_DISTANCE

CLASSES = {
    "static-not-reset": {"static-not-reset", "another-prompts-cache"}
}  # nothing outside tells them apart


@functools.cache
def table() -> Confusion:
    return confusion({name: functools.partial(check, plant) for name, plant in plants().items()})


@functools.cache
def gallery() -> Confusion:
    lm = kvlab.load("tiny", device="cpu")
    return confusion({name: functools.partial(check, misuse.wrong(lm)) for name, misuse in GALLERY.items()})


def test_every_misuse_has_a_plant_and_an_advice():
    assert set(plants()) == set(GALLERY) == set(FIXES)


@pytest.mark.parametrize("name", sorted(FIXES))
def test_a_plant_is_named_and_nothing_else(name):
    report = table().reports[name]
    assert report.names == CLASSES.get(name, {name}), str(report)
    assert report.ok == (name == "rounding")


@pytest.mark.parametrize("name", sorted(FIXES))
def test_the_gallery_is_named_and_nothing_else(name):
    report = gallery().reports[name]
    assert report.names == {name}, str(report)


def test_confusion_is_a_table():
    assert table().missed == []
    assert all(sum(row.values()) == pytest.approx(1) for row in table().cells.values())
    assert set(table().columns) == set(FIXES)
    assert "positions-restart" in str(table())


def test_a_finding_says_where_and_by_how_much():
    finding = table().reports["offset-by-one"].findings[0]
    assert (finding.token, finding.layer) == (
        4,
        0,
    )  # the first call has four tokens; attention is wrong at once
    assert finding.distance and finding.distance > 0.1
    assert "one short" in finding.evidence and "number of tokens seen" in finding.fix


class Blind(Subject):
    """A step whose model nobody can find: what is recomputed comes from the subject alone."""

    def __init__(self, step, lm):
        hidden = {"step": step, "full": lambda tokens: lm(tokens)}
        self.call = type("Call", (), {"__slots__": (), "__call__": lambda _, name, *a: hidden[name](*a)})()
        self.vocab_size, self.name = lm.config.vocab_size, "blind"

    def step(self, tokens, state=None, mask=None):
        if mask is not None:
            raise kvlab.doctor.Unable("no masks here")
        return self.call("step", tokens, state)

    def full(self, tokens):
        return self.call("full", tokens)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("positions-restart", set(WRONG_DISTANCE)),
        ("offset-by-one", set(WRONG_DISTANCE)),
        ("mixed-rotation", set(WRONG_DISTANCE)),
        ("own-entry-left-out", set(WRONG_DISTANCE)),
        ("mask-top-left", {"mask-top-left"}),
        ("no-mask-in-chunk", {"no-mask-in-chunk"}),
        ("whole-sequence-appended", {"whole-sequence-appended"}),
    ],
)
def test_without_a_model_a_class_is_named(name, told):
    report = check(Blind(plants()[name], kvlab.load("tiny", device="cpu")))
    assert report.names == told, str(report)


def test_new_tokens_only_without_a_model():
    lm = kvlab.load("tiny", device="cpu")
    only_new = under(
        lm, lambda past, new: torch.cat((torch.zeros(new, past), torch.ones(new, new).tril()), 1) > 0
    )
    assert check(Blind(only_new, lm)).names == {"mask-new-tokens-only"}


def test_trouble_that_no_theory_explains_is_unknown():
    lm = kvlab.load("tiny", device="cpu")
    good = at(lm, lambda past, new: torch.arange(past, past + new))

    def noisy(tokens, state):
        logits, cache = good(tokens, state)
        for layer in cache.layers:
            layer.values = layer.values * 1.01  # entries fade with every call
        return logits, cache

    report = check(noisy)
    assert not report.ok and report.names == {"unknown"}
    assert "even a text that repeats one token comes out wrong" in report.findings[0].evidence


@pytest.mark.parametrize(("kind", "right"), [("learned", False), ("t5", True), ("none", True)])
def test_the_last_token_only_breaks_positions_and_nothing_else(kind, right):
    """On x-transformers without the flag: where there are no positions to be wrong, nothing is."""
    report = check(x_step(wrapper(kind), whole=False, flag=False))
    assert report.ok is right, str(report)
    if not right:
        assert report.names == {"positions-restart"}


def test_a_lossy_cache_is_lossy_and_no_bug():
    lm = kvlab.load("tiny", device="cpu")
    for cache in (kvlab.Cache(lm, codec=kvlab.Int8()), kvlab.Cache(lm, eviction=kvlab.SinkRecent(2, 4))):
        report = check(lm, cache)
        assert report.ok and report.names == {"lossy"}, str(report)
        assert report.findings[0].distance > 0.01


def test_a_capacity_within_the_window_is_told_by_its_size():
    from transformers import StaticCache

    small = mistral(48)
    report = check(small, lambda: StaticCache(config=small.config, max_cache_len=20))
    assert "only the last 20 tokens" in report.findings[0].evidence.lower()


def test_a_class_names_its_members():
    assert Finding("a | b", "", "").names == ("a", "b")
