"""The doctor's exam, on plants that its probes were not made with.

First the plants are tried without the doctor: each misuse departs from full recompute where it is said to,
and each right step does not. Then the doctor looks at them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from heldout_exercises import EXERCISES, NEEDS_A_SUBJECT, far, gradients, is_loop, long, loop, opened
from heldout_plants import CORRECT, LOSSY, PLANTS, VOCAB, Plant, kvlab_bfloat16, llama_in_bfloat16
from torch import nn

from kvlab.doctor import Report, check
from kvlab.doctor.gallery import GALLERY
from kvlab.doctor.subject import Subject, Unable

# --- the plants by themselves ---


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.id)
def test_a_plant_does_damage_where_it_is_said_to(plant: Plant) -> None:
    exercise = {**EXERCISES, "far": far, "loop": loop, "gradients": gradients}[plant.shows]
    with torch.set_grad_enabled(plant.shows == "gradients"):
        assert exercise(opened(plant.make())) > 0.5


@pytest.mark.parametrize("make", CORRECT, ids=lambda make: make.__name__)
def test_a_right_step_gives_what_recompute_gives(make: Callable[[], Any]) -> None:
    made, limit = make(), 0.2 if "bfloat16" in make.__name__ else 1e-4
    for exercise in [loop] if is_loop(made) else EXERCISES.values():
        if isinstance(made, Subject) or exercise not in NEEDS_A_SUBJECT:
            with torch.no_grad(), suppress(Unable):
                assert exercise(opened(made)) < limit, exercise.__name__


@pytest.mark.parametrize("make", LOSSY.values(), ids=LOSSY)
def test_a_lossy_cache_loses_something(make: Callable[[], Any]) -> None:
    assert 1e-3 < long(opened(make())) < 2


# --- what the doctor says of them ---

# Plants that the doctor names as one of a class, which it cannot tell apart in these circumstances.
CLASSES = {
    "decoded-keys-are-stored-plain": "positions-from-stored-length | mixed-rotation",
    "one-static-cache-for-all-texts": "static-not-reset | another-prompts-cache",
    "positions-count-what-an-eviction-left": "capacity-becomes-window | positions-from-stored-length",
    "lists-of-the-last-dozen": "capacity-becomes-window | positions-from-stored-length",
}
UNNAMED = {  # where it fails, what it says
    "later-positions-one-too-far-and-no-model": "unknown: without a model nothing tells where it was put",
}
FALSE_ALARMS: dict[str, str] = {}


def examined(made: Any) -> Report:
    if isinstance(made, tuple):
        return check(*made)
    if isinstance(made, (Subject, nn.Module)) or is_loop(made):
        return check(made)
    return check(made, vocab_size=VOCAB)


def examined_by_chance(made: Any, seed: int) -> set[str]:
    torch.manual_seed(seed)
    random.seed(seed)  # x-transformers draws its layers with it
    return {finding.name for finding in examined(made).findings}


def failing(known: dict[str, str], name: str) -> list[pytest.MarkDecorator]:
    """The mark of a case in which the doctor is known to be wrong, and how."""
    if name not in known:
        return []
    return [pytest.mark.xfail(strict=True, raises=AssertionError, reason=known[name])]


PLANTED = [pytest.param(p, id=p.id, marks=failing(UNNAMED, p.id)) for p in PLANTS]
BY_CHANCE = [pytest.param(p, id=p.id) for p in PLANTS if p.shows == "twice"]
RIGHT = [pytest.param(f, id=f.__name__, marks=failing(FALSE_ALARMS, f.__name__)) for f in CORRECT]


def test_every_misuse_of_the_gallery_is_planted() -> None:
    assert {plant.misuse for plant in PLANTS} == GALLERY.keys() - {"rounding"}


@pytest.mark.parametrize("plant", PLANTED)
def test_the_doctor_names_the_misuse_and_nothing_else(plant: Plant) -> None:
    torch.manual_seed(0)
    random.seed(0)
    report = examined(plant.make())
    assert not report.ok
    assert {finding.name for finding in report.findings} == {CLASSES.get(plant.id, plant.misuse)}
    assert all(finding.evidence and finding.fix for finding in report.findings)


@pytest.mark.parametrize("plant", BY_CHANCE)
def test_the_name_does_not_hang_on_chance(plant: Plant) -> None:
    made = plant.make()
    assert [examined_by_chance(made, seed) for seed in range(10)] == [{plant.misuse}] * 10


@pytest.mark.parametrize("make", RIGHT)
def test_the_doctor_is_silent(make: Callable[[], Any]) -> None:
    report = examined(make())
    assert not [finding for finding in report.findings if finding.kind != "rounding"]
    assert len(report.passed) >= 2


@pytest.mark.parametrize("make", [llama_in_bfloat16, kvlab_bfloat16], ids=lambda make: make.__name__)
def test_rounding_is_called_rounding(make: Callable[[], Any]) -> None:
    report = examined(make())
    assert report.ok
    assert [finding.name for finding in report.findings] == ["rounding"]


@pytest.mark.parametrize("make", LOSSY.values(), ids=LOSSY)
def test_a_loss_that_is_meant_is_no_bug(make: Callable[[], Any]) -> None:
    report = examined(make())
    assert report.ok
    assert [finding.kind for finding in report.findings] == ["lossy"]
    assert report.findings[0].distance > 1e-3
