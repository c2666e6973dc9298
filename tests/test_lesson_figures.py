"""The shared figures draw exactly the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from kvlab.lesson import figures
from kvlab.lesson.style import ATTENTION_NORM, COLOURS, RUST

TOKENS = ["The", " cat", " 猫"]


def test_attention_maps_are_drawn_upright_on_one_fixed_scale() -> None:
    first = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    figure = figures.attention_maps([first, first / 10], TOKENS, ["one", "two"])
    left, right, bar = figure.axes
    for ax, values in ((left, first), (right, first / 10)):
        (image,) = ax.images
        np.testing.assert_allclose(image.get_array(), values, rtol=1e-6)
        assert image.norm is ATTENTION_NORM and (image.norm.vmin, image.norm.vmax) == (0, 1)
        assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first query stands at the top"
        assert [t.get_text() for t in ax.get_xticklabels()] == ["The", "␣cat", "␣\\u732b"]
        assert [t.get_text() for t in ax.get_yticklabels()] == ["The", "␣cat", "␣\\u732b"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
    figure.draw_without_rendering()
    assert bar.get_position().x0 > right.get_position().x1, "one bar, beside the last map"
    assert figure.alt == "attention of one, two, 3 queries over 3 keys"


def test_attention_maps_in_several_rows_hide_what_is_over() -> None:
    m = np.eye(3)
    figure = figures.attention_maps([m, m, m, m], TOKENS, list("abcd"), columns=3)
    assert [ax.get_visible() for ax in figure.axes[:6]] == [True] * 4 + [False] * 2


def test_one_query_over_other_keys() -> None:
    figure = figures.attention_map([[0.1, 0.2, 0.3, 0.4]], ["mat"], "last", keys=list("abcd"))
    assert figure.axes[0].images[0].get_array().shape == (1, 4)
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        figures.attention_map(np.ones((2, 4)), ["mat"], "last", keys=list("abcd"))


def test_curves_draw_theory_dashed_and_measured_solid_in_one_colour() -> None:
    lines = [
        figures.Line("naive", [3, 9, 40], [2, 8, 38]),
        figures.Line("cached", torch.tensor([2.0, 2.0, 3.0])),
    ]
    figure = figures.curves([16, 64, 256], lines, x_label="tokens", y_label="time (ms)", log_x=True)
    theory, naive, cached = figure.axes[0].lines
    np.testing.assert_array_equal(theory.get_ydata(), [2, 8, 38])
    np.testing.assert_array_equal(naive.get_xydata(), [[16, 3], [64, 9], [256, 40]])
    np.testing.assert_array_equal(cached.get_ydata(), [2, 2, 3])
    assert theory.get_color() == naive.get_color() == COLOURS[0] != cached.get_color()
    assert naive.get_linestyle() == "-" and theory.get_linestyle() == "--"
    assert {t.get_text() for t in figure.axes[0].texts} == {"naive", "cached"}
    assert figure.axes[0].get_legend() is None
    figure.draw_without_rendering()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["16", "64", "256"]


def test_curves_with_a_live_point_gaps_and_their_own_x() -> None:
    line = figures.Line("gpu", [1.0, 2.0, float("nan")], x=[1, 2, 3])
    figure = figures.curves([9], [line], x_label="n", y_label="GB", point=(2, 1.5, "now"), log_y=True)
    drawn, star = figure.axes[0].lines
    np.testing.assert_array_equal(star.get_xydata(), [[2, 1.5]])
    assert {t.get_text() for t in figure.axes[0].texts} == {"now", "gpu"}
    assert figure.axes[0].get_yscale() == "log"
    np.testing.assert_array_equal(drawn.get_xdata(), [1, 2, 3])


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="6 lines"):
        figures.curves([1], [figures.Line(str(i), [i]) for i in range(6)], x_label="x", y_label="y")


def test_bars_write_their_values() -> None:
    figure = figures.bars(["int4", "int8"], [3, 1234.5], label="bits", theory=[4, 1000], highlight=["int8"])
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [3, 1234.5]
    assert {t.get_text() for t in ax.texts} == {"3", "1,234"}
    assert ax.yaxis_inverted(), "the first bar stands at the top"
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [COLOURS[0], RUST]
    places = {t.get_text(): t.xy[0] for t in ax.texts}
    assert places == {"3": 4, "1,234": 1234.5}, "behind a near mark, else at the bar's end"
    marks = ax.collections[0].get_segments()
    assert [segment[0][0] for segment in marks] == [4, 1000]
    assert figure.alt == "bits: bars for int4, int8", "no measured digits: strict nbval compares it"


def test_thumbnails_put_each_map_at_its_layer_and_head() -> None:
    maps = np.random.default_rng(0).random((3, 2, 4, 4))
    sheet = figures.thumbnail_sheet(maps, gap=1)
    assert sheet.shape == (9, 14)
    np.testing.assert_array_equal(sheet[5:9, 10:14], maps[2, 1])
    assert np.isnan(sheet[4]).all() and np.isnan(sheet[:, [4, 9]]).all()
    figure = figures.thumbnails(torch.tensor(maps), highlight=[(2, 1)])
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.images[0].get_array().filled(np.nan), sheet, rtol=1e-6)
    (frame,) = ax.patches
    middle = frame.get_x() + frame.get_width() / 2, frame.get_y() + frame.get_height() / 2
    assert middle == (11.5, 6.5), "the frame is around layer 2 (column), head 1 (row)"
