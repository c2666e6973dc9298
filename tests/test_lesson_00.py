"""Lesson 00: the machine, the next-words widget, counted work, the map of the course."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex

import kvlab
from kvlab.lesson import CORE, LESSONS, l00
from kvlab.lesson.style import BLUE, GRID
from kvlab.measure.watch import rows_computed
from kvlab.model import Decoder

CAPITALS = "The capital of France is Paris, and the capital of Italy is"


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {what: (value, remark) for what, value, remark in l00.machine().rows}
    assert found["versions"][0].startswith("python 3.") and torch.__version__ in found["versions"][0]
    assert "cores" in found["processor"][0]
    assert found["lessons run on"][0] in ("cpu", "cuda")
    monkeypatch.setattr(l00, "memory_bytes", lambda: 2 * l00.GIB)
    small = {what: remark for what, _, remark in l00.machine().rows}
    assert small["memory"].startswith("less than 4 GiB")


def test_the_machine_says_where_answers_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KVLAB_WORK", raising=False)
    assert "until this kernel stops" in repr(l00.machine())
    monkeypatch.setenv("KVLAB_WORK", str(tmp_path))
    assert "work/.kvlab" in repr(l00.machine()) and str(tmp_path) not in l00.machine()._repr_html_()


def test_next_words_are_the_models_and_the_slider_shows_them(tiny: Decoder) -> None:
    widget = l00.NextWords(tiny, "a cat sat", count=4)
    ids = tiny.tokenizer.encode("a cat sat")
    for shown in (3, len(ids)):
        widget.shown.value = shown
        alone = tiny(torch.tensor([ids[:shown]]))[0, -1].softmax(-1).topk(4)
        assert widget.words[shown - 1] == [tiny.tokenizer.decode([i]) for i in alone.indices.tolist()]
        assert torch.allclose(widget.percent[shown - 1], 100 * alone.values, atol=1e-3)
        assert widget.view.html.value.count("%</td>") == 4
        assert widget.view.html.value.count(l00.PALE) == shown
    widths = [bar.get_width() for bar in widget.picture().axes[0].patches]
    assert widths == pytest.approx(widget.percent[-1].tolist())


def test_next_words_moves(tiny: Decoder) -> None:
    widget = l00.NextWords(tiny, "a cat sat")
    before = widget.view.html.value
    widget.shown.value -= 1
    assert widget.view.html.value != before


@pytest.mark.weights
def test_next_words_of_the_lesson(smollm2: Decoder) -> None:
    widget = l00.NextWords(smollm2, CAPITALS)
    assert widget.words[-1][0] == " Rome" and 70 < float(widget.percent[-1, 0]) < 85
    after_france = widget.tokens.index(" is")
    assert widget.words[after_france][0] == " Paris"


def test_the_work_picture_has_a_dark_square_for_each_row_computed() -> None:
    naive, cached = [3, 4, 5], [3, 1, 1]
    figure = l00.work(naive, cached)
    dark = [[p for p in ax.patches if to_hex(p.get_facecolor()) == BLUE.lower()] for ax in figure.axes]
    pale = [[p for p in ax.patches if to_hex(p.get_facecolor()) == GRID.lower()] for ax in figure.axes]
    assert [len(d) for d in dark] == [sum(naive), sum(cached)]
    assert [len(p) for p in pale] == [0, sum(naive) - sum(cached)]
    newest = sorted((round(p.get_y()), round(p.get_x())) for p in dark[1])
    assert newest == [(0, 0), (0, 1), (0, 2), (1, 3), (2, 4)]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["without a cache: 12 rows", "with a cache: 5 rows"]


def test_the_map_has_every_lesson_once_and_fills_the_core_path() -> None:
    assert sorted(lesson for _, lessons in l00.PARTS for lesson in lessons) == list(LESSONS)
    (ax,) = l00.course_map().axes
    filled = [p for p in ax.patches if p.get_facecolor()[3] > 0]
    assert len(ax.patches) == len(LESSONS) == 21
    assert len(filled) == len(CORE)
    texts = " ".join(text.get_text().replace("\n", " ") for text in ax.texts)
    assert all(f"{number} {title}" in texts for number, title in LESSONS.items())


@pytest.mark.weights
def test_the_lessons_counts(smollm2: Decoder) -> None:
    with rows_computed(smollm2) as naive:
        without = kvlab.generate(smollm2, "One, two, three,", max_new_tokens=20, progress=False)
    with rows_computed(smollm2) as cached:
        cache = kvlab.Cache(smollm2)
        kept = kvlab.generate(smollm2, "One, two, three,", cache, max_new_tokens=20, progress=False)
    assert (sum(naive), sum(cached)) == (310, 25)
    assert without.ids == kept.ids and without.text.startswith(" four, five, six, seven, eight")
