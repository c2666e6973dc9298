"""Lesson 19: one layer's indexer taught live, what was recorded of all layers, and the widget."""

from __future__ import annotations

import pytest
import torch
from said import prose, quality_run, times_said

import kvlab
from kvlab.learned import Capture
from kvlab.lesson import chart, l19, l19_figures, l19_pupil
from kvlab.lesson.style import BLUE, RUST
from kvlab.model import Decoder

pytestmark = pytest.mark.usefixtures("no_gradients")
TOKENS, ROWS = 640, 8


def window(seed: int) -> Capture:
    """Made up: two layers, two KV heads; attention that a linear map of queries and keys explains."""
    draw = torch.Generator().manual_seed(seed)
    rule = torch.randn(16, 8, generator=torch.Generator().manual_seed(9))
    queries, keys = torch.randn(2, ROWS, 16, generator=draw), torch.randn(2, TOKENS, 8, generator=draw)
    at = torch.arange(TOKENS - ROWS, TOKENS)
    scores = (queries @ rule @ keys.transpose(-1, -2)).masked_fill(torch.arange(TOKENS) > at[:, None], -1e9)
    attention = (scores / 4).softmax(-1).unsqueeze(1).expand(-1, 2, -1, -1).contiguous()
    return Capture(at, queries, keys, attention)


# --- one layer ------------------------------------------------------------------------------------------


def test_a_pupil_learns_and_tells_how_far_it_is() -> None:
    pupil = l19.Pupil(window(0), window(1), layer=1)
    pupil.teach(60)
    assert pupil.steps == 60 and [steps for steps, _ in pupil.history] == [0, 60]
    assert pupil.losses[-1] < pupil.losses[0]
    yardsticks = pupil.yardsticks(0.1)
    assert pupil.mass(0.1) <= yardsticks["oracle"] and set(yardsticks) == {"oracle", "sinks + recent"}
    pupil.teach(1000)
    assert pupil.steps == pupil.recipe.steps  # the recipe's end is the end


def test_what_is_chosen_is_what_it_ranks_highest() -> None:
    pupil = l19.Pupil(window(0), window(1), layer=0)
    attention, picked = pupil.chosen(2)
    assert attention.sum().item() == pytest.approx(1) and int(picked.sum()) == int((TOKENS - ROWS + 3) * 0.1)
    assert not picked[TOKENS - ROWS + 3 :].any()  # the future


def test_a_layer_alone_is_that_layer_of_all() -> None:
    seen = window(3)
    assert torch.equal(l19.of_layer(seen, 1).keys[0], seen.keys[1])
    assert torch.equal(l19.of_layer(seen, 1).attention[0], seen.attention[1])


@pytest.mark.weights
def test_what_the_lesson_says_of_layer_5(smollm2: Decoder) -> None:
    taught, judged = l19.windows(smollm2)
    pupil = l19.Pupil(taught, judged, layer=5)
    assert 0.05 < pupil.mass(0.1) < 0.2
    yardsticks = pupil.yardsticks(0.1)
    assert round(yardsticks["oracle"], 2) == 0.92 and round(yardsticks["sinks + recent"], 2) == 0.32
    pupil.teach(100)
    assert 0.82 < pupil.mass(0.1) < 0.9 and pupil.dead() < 0.3
    wide = l19.Pupil(taught, judged, layer=5, width=1.0)
    wide.teach(100)
    assert wide.mass(0.1) < 0.1 and wide.dead() > 0.8
    assert wide.losses[0] > 40 and wide.losses[-1] < 6


# --- the record -----------------------------------------------------------------------------------------


def test_what_the_lesson_says_of_its_record() -> None:
    means = {name: round(100 * l19.mean(by)) for name, by in l19.masses(0.1).items()}
    assert means == {
        "oracle": 89, "oracle by head": 91, "indexer": 87, "gate": 70, "Quest": 66, "sinks + recent": 70,
    }  # fmt: skip
    masses, gains = l19.masses(0.1), l19.gains(0.1)
    gaps = [best - mine for best, mine in zip(masses["oracle"], masses["indexer"], strict=True)]
    assert max(gaps) < 0.04
    near = [s / best for s, best in zip(masses["sinks + recent"], masses["oracle"], strict=True)]
    assert all(near[layer] < 0.41 for layer in range(3, 9))
    assert [layer for layer, part in enumerate(near) if part > 0.96] == [12, 13, 16, 19, 25, 27]
    assert sorted(sorted(range(30), key=lambda i: -gains[i])[:6]) == [3, 4, 5, 6, 7, 8]
    assert max(gains) > 10 * min(gains) > 0
    made = l19.trained()
    assert made["parameters"] == 2_465_280 and made["recipe"]["steps"] == 400 and l19.recipe().width == 0.1


@pytest.mark.parametrize(
    ("worse", "better", "said", "beyond"),
    [
        ("quest-12.5", "indexer-12.5", "5.7 times the indexer's (2.5 … 13)", True),
        ("quest-25", "indexer-25", "4.9 times (2.8 … 8.7)", True),
        ("gate-25", "quest-25", "1.1 times with a quarter, 0.7 … 2.0", False),
        ("indexer-12.5", "sparq-16-12.5", "1.7 times SparQ's (1.1 … 2.6", True),
    ],
)
def test_prose_says_how_many_times_the_kl(worse: str, better: str, said: str, beyond: bool) -> None:
    assert said in prose("19")
    times_said(worse, better, said, beyond)


def test_what_the_lesson_says_is_lost() -> None:
    found = chart.points(quality_run())
    names = "full", "topk-12.5", "indexer-25", "indexer-12.5", "quest-12.5", "sparq-16-12.5"
    assert [found[name].right for name in names] == [14, 14, 10, 2, 4, 14]
    assert found["gate-12.5"].right == found["gate-25"].right == 0
    assert max(found[f"indexer-{share}"].copied for share in ("5", "12.5", "25")) < 0.03
    assert round(found["sparq-16-12.5"].copied, 2) == 0.48
    assert [round(100 * found[name].read) for name in ("sparq-16-12.5", "indexer-12.5")] == [26, 28]
    index = 30 * 32 * 2  # layers, numbers, bytes
    assert round(found["sparq-16-12.5"].stored) == 34_560 and 23_040 + index == 24_960
    weights = 4 * 2_465_280 / 5 / 512  # float32, a fifth for each text
    assert round(found["indexer-25"].stored) == round(24_960 + weights)


def test_the_figure_of_losses_plots_the_record() -> None:
    found = chart.points(quality_run())
    kl, needles, _ = l19_figures.losses_figure(found, ("indexer-12.5", 0.1)).axes
    assert [line.get_ydata()[0] for line in kl.lines if line.get_marker() == "*"] == [0.1]
    drawn = [line.get_ydata().tolist() for line in needles.lines if line.get_marker() in "os^"]
    assert drawn == [[p.right for p in points] for points in l19.families(found).values()]


@pytest.mark.weights
def test_what_the_lesson_says_of_bytes(smollm2: Decoder) -> None:
    text = torch.arange(512)[None] + 1000
    cache, plain = kvlab.Cache(smollm2, selection=kvlab.Indexer(64)), kvlab.Cache(smollm2)
    for each in (cache, plain):
        smollm2(text[:, :-1], each, last_only=True)
        smollm2(text[:, -1:], each)
    index = 512 * 30 * 32 * 4  # tokens, layers, numbers, bytes
    assert cache.bytes_read == 64 * 46_080 + index and round(index / 1e6, 1) == 2.0
    assert cache.nbytes - plain.nbytes == index + 4 * 2_465_280  # 9.9 MB of weights


# --- figures and the widget -----------------------------------------------------------------------------


def test_figures_plot_what_they_are_given() -> None:
    (ax,) = l19_figures.by_layer({"oracle": [0.9, 0.8], "indexer": [0.8, 0.7]}, 0.1).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.9, 0.8], [0.8, 0.7]]
    (ax,) = l19_figures.loss_curve({"gate": [(20, 2.0), (40, 0.5)]}).axes
    assert ax.lines[0].get_ydata().tolist() == [2.0, 0.5]
    pupil = l19.Pupil(window(0), window(1), layer=0)
    left, right = l19_figures.pupil_figure(pupil, 3).axes
    colours = {bar.get_facecolor() for bar in left.patches}
    assert len(colours) == 2 and sum(bar.get_height() for bar in left.patches) == pytest.approx(1, abs=1e-5)
    assert right.lines[0].get_ydata().tolist() == [pupil.history[0][1]]
    assert BLUE != RUST


def test_the_school_teaches_and_starts_again() -> None:
    school = l19_pupil.school(window(0), window(1), layer=0, row=2)
    before = school.view.html.value
    school.train.click()
    assert school.pupil.steps == 20 and school.view.html.value != before
    school.row.value = 3
    assert school.pupil.steps == 20
    school.again.click()
    assert school.pupil.steps == 0
    data, _ = school._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] School")
