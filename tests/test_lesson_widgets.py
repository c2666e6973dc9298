"""Widgets without a browser: what they show, how they move, and the picture that stands for them."""

from __future__ import annotations

import base64
import time

import numpy as np
import pytest
from ipywidgets import Button, IntSlider

from kvlab.lesson.style import Drawing, drawing
from kvlab.lesson.tables import heat_table
from kvlab.lesson.widgets import Exhibit, live, note, on_click

VIEW = "application/vnd.jupyter.widget-view+json"


def picture(height: float = 1.0) -> Drawing:
    figure, (ax,) = drawing(2, 1, alt=f"a line at {height}")
    ax.axhline(height)
    return figure


def test_an_exhibit_is_a_widget_and_a_picture() -> None:
    slider = IntSlider(max=5)
    data, metadata = Exhibit([slider], title="Browse", picture=picture)._repr_mimebundle_()
    assert set(data) == {VIEW, "image/png", "text/plain"}
    assert base64.b64decode(data["image/png"]) == picture().png()
    assert data["text/plain"] == "[widget] Browse (run this cell to use it)"
    assert metadata["image/png"]["alt"] == "a line at 1.0"


def test_an_exhibit_with_text_has_no_picture() -> None:
    data, _ = Exhibit([], title="Ask", html="<b>?</b>")._repr_mimebundle_()
    assert set(data) == {VIEW, "text/html", "text/plain"}


@pytest.mark.parametrize("fallback", [{}, {"picture": picture, "html": "x"}])
def test_an_exhibit_needs_exactly_one_fallback(fallback: dict) -> None:
    with pytest.raises(ValueError, match="one fallback"):
        Exhibit([], title="x", **fallback)


def test_live_draws_the_default_and_every_move_once() -> None:
    a, b = IntSlider(value=1, max=9), IntSlider(value=2, max=9)
    view = live(lambda x, y: f"<p>{x} {y}</p>", a, b)
    assert view.html.value == "<p>1 2</p>" and view.drawn == 1
    a.value = 5
    b.value = 7
    assert view.html.value == "<p>5 7</p>" and view.drawn == 3
    a.value = 5
    assert view.drawn == 3, "no move, no drawing"


def test_live_shows_pictures_as_images() -> None:
    slider = IntSlider(value=1, max=5)
    view = live(picture, slider)
    first = view.html.value
    assert first.startswith('<img src="data:image/png;base64,') and 'alt="a line at 1"' in first
    slider.value = 3
    assert view.html.value.split("alt")[0] != first.split("alt")[0] and 'alt="a line at 3"' in view.html.value


def test_live_draws_only_the_newest_of_moves_made_while_drawing() -> None:
    slider = IntSlider(value=0, max=100)
    seen = []

    def draw(value: int) -> str:
        seen.append(value)
        if value == 1:
            for later in (10, 20, 30):
                slider.value = later
        return str(value)

    view = live(draw, slider)
    slider.value = 1
    assert seen == [0, 1, 30] and view.html.value == "30"


def test_a_failing_drawing_says_so_and_recovers() -> None:
    slider = IntSlider(value=0, max=5)
    view = live(lambda v: f"{6 // v}", slider)
    assert "ZeroDivisionError" in view.html.value
    slider.value = 3
    assert view.html.value == "2"


def test_live_without_a_result_leaves_other_widgets_to_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    slider, line = IntSlider(value=0, max=5), note("start")
    live(lambda v: setattr(line, "value", f"now {v}"), slider)
    slider.value = 4
    assert line.value == "now 4"
    assert capsys.readouterr() == ("", ""), "nothing is printed"


@pytest.mark.alone
def test_a_move_answers_in_150_ms_of_computing() -> None:
    tokens = [f"token {i}" for i in range(30)]
    values = np.random.default_rng(0).random((9, 30, 30))
    figure = picture()

    def move(i: int) -> Drawing:
        figure.axes[0].lines[0].set_ydata([i, i])
        return figure

    def table(i: int) -> str:
        return heat_table(values[i], tokens, tokens, caption="")

    for draw in (move, table):
        slider = IntSlider(value=0, max=8)
        view = live(draw, slider)
        took = []
        for i in range(1, 9):
            start = time.process_time()  # what other processes do meanwhile does not count
            slider.value = i
            took.append(time.process_time() - start)
        assert view.drawn == 9 and min(took) < 0.15


def test_a_button_is_off_while_it_works_and_on_again_after_an_error() -> None:
    button, states = Button(), []

    def work() -> None:
        states.append(button.disabled)
        raise RuntimeError("no")

    says = on_click(button, work)
    button.click()
    assert states == [True] and button.disabled is False
    assert "RuntimeError: no" in says.value
