"""What several lessons draw of the quality run: a row a method, bytes against losses, one text again."""

from __future__ import annotations

import dataclasses

import pytest

from kvlab.lesson.again import again, line
from kvlab.lesson.chart_points import SMOL, Point
from kvlab.lesson.judged_figures import price_figure, rows_figure
from kvlab.lesson.recorded import Recorded
from kvlab.measure.report import Report
from kvlab.model import Decoder


def point(method: str, kl: float, right: int = 8, read: float = 0.5) -> Point:
    texts = tuple(kl * factor for factor in (0.8, 0.9, 1.0, 1.1, 1.25))
    return Point(method, "selection", "", texts, right, 16, 0.4, 5000.0, read, False)


FULL = dataclasses.replace(point("full", 1.0, 14, 1.0), exact=True)


def test_a_row_a_method_a_colour_a_group() -> None:
    groups = {"4 bits": {"one": point("one-4", 0.01), "two": point("two-4", 0.02, 12)},
              "2 bits": {"one": point("one-2", 0.3, 3)}}  # fmt: skip
    left, right = rows_figure(groups, FULL, "words", ("one-2", 0.2)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["one", "two"]
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [8, 12, 3]
    ((star, height),) = [line.get_xydata()[0] for line in left.lines if line.get_marker() == "*"]
    assert star == 0.2 and 0 < height < 0.5, "the star lies in the row and the group of its method"
    assert [float(line.get_xdata()[0]) for line in right.lines if line.get_marker() == "None"] == [14]


def test_bytes_against_what_is_lost() -> None:
    families = {"a": [point("a-5", 0.3, 2, 0.1), point("a-25", 0.02, 9, 0.3)], "b": [point("b", 0.1)]}
    kl, needles, copying = price_figure(families, FULL, "words", star=("a-25", 0.03)).axes
    assert needles.lines[0].get_xydata().tolist() == [[10, 2], [30, 9]]
    assert copying.lines[1].get_xydata().tolist() == [[50, 0.4]]
    assert [line.get_xydata()[0].tolist() for line in kl.lines if line.get_marker() == "*"] == [[30, 0.03]]
    stored = price_figure(families, FULL, "words", "stored").axes
    assert stored[1].lines[1].get_xydata().tolist() == [[5000, 8]]


def test_a_line_says_what_a_method_loses_and_costs() -> None:
    said = line(point("quest-25", 0.1, 3, 0.25))
    assert "quest-25: KL 0.1" in said and "needles  3/16, copied 0.40, read 25%, stored " in said
    unasked = line(dataclasses.replace(point("quest-25", 0.1, 3), copied=float("nan")))
    assert "needles  3/16, read" in unasked


@pytest.mark.usefixtures("no_gradients")
def test_a_recorded_method_is_measured_again(tiny: Decoder) -> None:
    """With the settings of its row: an exact one loses nothing, int8 something."""
    report = Report("quality", "here", {}, "")
    source = {"settings": {"tokens": 96, "further": 8}}
    report.rows = [{"model": SMOL, "method": name, "source": source} for name in ("full", "int8")]
    run = Recorded("quality", report)
    assert again(tiny, run, "full") < 1e-8 < again(tiny, run, "int8")
