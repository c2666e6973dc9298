"""Lesson 20: the recorded combination, designs told what is wrong, the budget, and the predictions."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
from said import prose, quality_run

import kvlab
from kvlab.lesson import chart, l20, l20_design, l20_figures, l20_said, l20_widget
from kvlab.lesson.l20_design import FITS, REFUSED, TASKS, UNKNOWN, trial, verdict
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.measure.quality import settings_of
from kvlab.measure.report import Report
from kvlab.model import Decoder

pytestmark = pytest.mark.usefixtures("no_gradients")
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
INT4 = kvlab.Quantize(4, "token", group_size=32, residual=32)


def record(name: str) -> Recorded:
    run = recorded(name)
    assert isinstance(run, Recorded)
    return run


def way(name: str, stored: int, uncoded: int, read: int, **more: Any) -> dict[str, Any]:
    return {"way": name, "model": "m", "bytes": {"stored": stored, "uncoded": uncoded, "read": read}, **more}


# --- the recorded run -------------------------------------------------------------------------------------


def test_shares_are_of_sixteen_bits_and_count_what_is_not_coded_as_such() -> None:
    needles = {"8": {"key": [1, 0]}}
    rows = [
        way("16 bits", 100, 0, 100, kl=[1e-6, 1e-6]),
        way("Quest", 120, 20, 40, kl=[0.1, 0.1], needles=needles, times_full=2.0),
    ]
    found = l20.ways(Recorded("t", Report("together", "d", {}, "c", rows=rows)), "m")
    quest = found["Quest"]
    assert (quest.held, quest.read, quest.right, quest.asked, quest.times) == (1.1, 0.3, 1, 2, 2.0)
    assert quest.kl == pytest.approx(0.1)
    text = l20.lines(found)
    assert "110%" in text and "1 of 2" in text and "0.100" in text


def test_needles_found_are_one_of_the_choices() -> None:
    assert [l20.how_many(n, 6) for n in (0, 1, 3, 4, 5, 6)] == [
        "none",
        *["about half"] * 3,
        *["nearly all"] * 2,
    ]


def test_what_the_lesson_says_of_8000_tokens() -> None:
    run = record("together-cpu")
    assert "dirty" not in run.report.commit and not run.report.errors
    ways = l20.ways(run)
    held = {name: round(100 * w.held, 1) for name, w in ways.items()}
    assert (held["int4"], held["SnapKV"], held[l20.ALL]) == (31.5, 25.4, 8.5) and held["Quest"] > 105
    assert round(100 * ways["Quest"].read) == 24 and round(100 * ways[l20.ALL].read, 1) == 7.5
    assert 13 <= 1 / ways[l20.ALL].read < 14  # "thirteen times fewer bytes read"
    assert 0.9 < ways["int4"].held * ways["SnapKV"].held / ways[l20.ALL].held < 1  # nearly the product
    parts = [ways[name].read for name in ("int4", "SnapKV", "Quest")]
    assert parts[0] * parts[1] * parts[2] < ways[l20.ALL].read / 3  # and no product at all
    assert [round(ways[name].times, 1) for name in ("SnapKV", "int4", l20.ALL)] == [1.4, 0.7, 1.1]
    assert (ways["16 bits"].right, ways["16 bits"].asked) == (1, 4)
    kls = {row["way"]: row["kl"] for row in run.rows}
    for text in range(2):
        assert max(kls, key=lambda name: kls[name][text]) == "Quest"  # all three lose less than Quest alone
    pages = 8000 // 8 // 16
    bounds = 28 * 3 * (8000 // 16) * 2 * 64 * 2  # layers, KV heads, pages, two vectors, 16 bits
    assert pages * 16 == 992 and round(100 * bounds / run.rows[0]["bytes"]["stored"]) == 6


def test_what_the_lesson_says_of_needles() -> None:
    run = record("together-needles-cpu")
    asked = l20.needles(run)
    assert "dirty" not in run.report.commit and run.report.parameters["tokens"] == 4000
    assert [asked[name][0] for name in ("16 bits", "int4", "SnapKV", "Quest", l20.ALL)] == [4, 3, 0, 0, 0]
    assert {count for _, count in asked.values()} == {6}


def test_what_the_lesson_says_of_the_chart() -> None:
    run = record("quality")
    found = chart.points(run)
    share = {name: round(100 * p.stored / found["full"].stored) for name, p in found.items()}
    best = [p.method for p in chart.front(found.values())]
    assert best[:2] == ["int4+snapkv-25", "int4+snapkv-50"] and {"kivi-3", "kivi-4", "int8"} <= set(best)
    assert not {p.family for p in map(found.get, best) if p} & {"selection", "learned"}
    assert [found[name].right for name in best[:2]] == [2, 2] and found["full"].right == 14
    rows = {
        "int4+snapkv-50": (21, 2, 0.03), "kivi-3": (30, 14, 0.02), "kivi-4": (36, 14, 0.0),
        "rank-32-48-int4": (26, 14, 0.06), "sparq-16-12.5": (150, 14, 0.04),
    }  # fmt: skip
    for name, (held, right, kl) in rows.items():
        p = found[name]
        assert (share[name], p.right, round(p.interval.mean, 2)) == (held, right, kl), name
    assert round(100 * found["sparq-16-12.5"].read) == 26
    less = chart.more(run, "quest-25", "snapkv-50+quest-25")
    assert (round(less.mean, 1), round(less.low, 1), round(less.high, 1)) == (1.5, 0.9, 2.6)
    evicted = [p for p in found.values() if p.family == "eviction" and p.method.endswith("-25")]
    assert max(p.right for p in evicted) <= 4  # what an eviction has freed cannot be asked for
    quiet = [found[name].right for name in ("quest-25", "snapkv-50", "snapkv-50+quest-25")]
    assert quiet == [8, 2, 2]


def test_gemma_agrees_on_what_is_combined() -> None:
    run, both = record("quality"), (chart.SMOL, chart.GEMMA)
    for pair, said in (
        (("int4+snapkv-50", "kivi-4"), [7.9, 28.4]),
        (("int4+snapkv-50+quest-25", "int4+snapkv-50"), [3.4, 2.4]),
    ):
        found = [chart.more(run, *pair, name) for name in both]
        assert [round(one.mean, 1) for one in found] == said and min(one.low for one in found) > 1
    for name in both:
        assert chart.more(run, "int4+quest-25", "quest-25", name).low < 1
        assert sum(chart.needle_hits(run, "int4+snapkv-50", name)) <= 2


def test_the_figure_plots_the_shares() -> None:
    both = {
        "16 bits": l20.Way("16 bits", 1, 1, 0, 0, 0, 1),
        l20.ALL: l20.Way(l20.ALL, 0.1, 0.05, 1, 0, 0, 1),
    }
    left, right = cast(Any, l20_figures.ways_figure(both)).axes
    assert [bar.get_width() for bar in left.patches] == [100, 10]
    assert [bar.get_width() for bar in right.patches] == [100, 5]


def test_shares_of_a_cache_are_those_of_the_formula() -> None:
    lm = l20_design.small()
    held, read = l20.shares(lm, {"codec": kvlab.Float16()}, 256)
    assert held == 1 and read == pytest.approx(1, abs=0.01)
    held, _ = l20.shares(lm, {"codec": kvlab.Quantize(4, "token", 32)}, 256)
    assert held == pytest.approx(5 / 16)
    held, read = l20.shares(lm, {"selection": kvlab.Quest(16, 2)}, 256)
    assert held == pytest.approx(1 + 0.8 / 16) and read < 0.4  # bounds: two vectors for 16 keys and values


# --- designs ----------------------------------------------------------------------------------------------


def test_a_design_is_judged_by_what_its_cache_holds_and_reads() -> None:
    quest = kvlab.Quest(16, 2)
    for task, design, says in (
        ("go on", {"codec": INT4, "eviction": kvlab.SnapKV(80)}, FITS),
        ("go on", {"codec": INT4}, "holds too much"),
        ("answer", {"codec": INT4}, FITS),
        ("answer", {"codec": INT4, "eviction": kvlab.SnapKV(80)}, "entries are gone"),
        ("answer fast", {"codec": INT4, "selection": quest}, FITS),
        ("answer fast", {"codec": kvlab.KIVI(4, 32, residual=32), "selection": quest}, "reads too much"),
        ("answer", {"selection": quest}, "holds too much"),
        ("answer", {"codec": kvlab.Quantize(4, "token", group_size=7)}, REFUSED),
        ("answer", {"bits": 4}, UNKNOWN),
    ):
        assert verdict(design, TASKS[task], 320) == says, (task, design)


def test_remarks_name_the_knob(tiny: Decoder) -> None:
    def said(design: dict[str, Any], task: str, held: float, read: float, right: int) -> str:
        return " ".join(l20_design.remarks(tiny, design, TASKS[task], held, read, right, 16))

    assert "Over the budget" in said({}, "go on", 1.0, 1.0, 16)
    assert "A selection saves no memory" in said({"selection": kvlab.Quest(16, 2)}, "answer", 1.1, 0.3, 16)
    evicted = said({"eviction": kvlab.SnapKV(80)}, "answer", 0.2, 0.2, 3)
    assert "frees entries for good" in evicted and "13 numbers are lost" in evicted and "fit" not in evicted
    goes_on = said({"eviction": kvlab.SnapKV(80)}, "go on", 0.2, 0.2, 3)
    assert goes_on.startswith("Its bytes fit the task: keep the text going. 13 numbers are lost")
    kivi = {"codec": kvlab.KIVI(4, 16, residual=32), "selection": kvlab.Quest(16, 2)}
    assert "encodes 16 tokens together" in said(kivi, "answer fast", 0.4, 0.4, 16)
    fits = "Its bytes fit the task: answer questions about any part of it."
    assert said({"codec": INT4}, "answer", 0.4, 0.4, 14) == fits
    assert said({"codec": INT4}, "answer", 0.4, 0.4, 7).startswith(f"{fits} Most numbers were not found")


def test_what_cannot_be_run_says_why(tiny: Decoder) -> None:
    assert "not yet" in repr(trial(tiny, None))
    wrong = trial(tiny, {"codec": kvlab.Quantize(4, "token", group_size=7)})
    assert repr(wrong).startswith("This cache cannot be made: group_size=7 does not divide")
    with pytest.raises(LookupError, match="no task"):
        trial(tiny, {}, "dance")


def test_a_trial_runs(tiny: Decoder) -> None:
    found = trial(tiny, {"codec": kvlab.Float16()}, "answer")
    assert isinstance(found, l20_design.Trial)
    assert (
        found.held == 1 and found.read == pytest.approx(1, abs=0.01) and found.kl < 1e-4 and found.asked == 16
    )
    assert "Over the budget: it may hold 45% of 16 bits." in repr(found)


def test_a_trial_is_measured_as_the_chart_was() -> None:
    there = chart.row(record("quality"), "token-4")["source"]["settings"]
    here = settings_of(l20_design.MEASURED) | {k: there[k] for k in ("offsets", "copies", "evaluations")}
    assert here == there and l20_design.MEASURED.offsets == 1


@pytest.mark.weights
def test_four_bits_lie_on_the_dot_of_their_recording(smollm2: Decoder) -> None:
    run = record("quality")
    star, row, dot = trial(smollm2, {"codec": INT4}, "answer"), chart.row(run, "token-4"), chart.points(run)
    assert isinstance(star, l20_design.Trial) and star.remarks[0].startswith("Its bytes fit the task")
    assert star.held * dot["full"].stored == pytest.approx(dot["token-4"].stored)
    assert star.read == pytest.approx(dot["token-4"].read, rel=0.02)
    assert star.kl == pytest.approx(row["kl"][0], rel=0.02) and star.right == pytest.approx(14, abs=1)


def test_two_designs_fit_one_task_each() -> None:
    for design, says in (
        ({"codec": INT4, "eviction": kvlab.SnapKV(64)}, [FITS, "entries are gone", "entries are gone"]),
        ({"codec": INT4}, ["holds too much", FITS, "reads too much"]),
    ):
        assert [verdict(design, need, l20_design.TOKENS) for need in TASKS.values()] == says


# --- the budget -------------------------------------------------------------------------------------------


def test_what_fits_a_budget_is_in_the_order_of_the_task() -> None:
    found = chart.points(record("quality"))
    whole = found["full"].stored
    for task in l20_widget.TASKS:
        fits = l20_widget.fitting(found, 0.3, task)
        assert fits and all(p.stored <= 0.3 * whole and p.family != "oracle" for p in fits)
    kls = [p.interval.mean for p in l20_widget.fitting(found, 0.5, "keep going")]
    assert kls == sorted(kls)
    needles = [p.right for p in l20_widget.fitting(found, 0.5, "answer")]
    assert needles == sorted(needles, reverse=True)
    assert l20_widget.fitting(found, 1.0, "keep going")[0].exact


def test_the_budget_box_answers_its_controls() -> None:
    box = l20_widget.BudgetBox(chart.points(record("quality")))
    budget = l20_widget.Budget("smollm2-135m", 8192, box.budget.value)
    assert budget.full == 8192 * 23_040 and budget.said == "25%" and round(box.budget.value) == 47
    assert l20_widget.Budget("smollm2-135m", 512, 1e5).said == "more than 16 bits need"
    assert l20_widget.Budget("llama3-8b", 131_072, 1.0).said == "less than 1%"
    steps = (math.log10(box.budget.value) - box.budget.min) / box.budget.step
    assert steps == pytest.approx(round(steps)), "a page shows no value between two steps"
    first = box.view.html.value
    assert "25%" in first
    for control, value in ((box.task, "answer"), (box.model, "llama3-8b"), (box.budget, 1.0)):
        before = box.view.html.value
        control.value = value
        assert box.view.html.value != before
    assert "Nothing recorded is as small" in box.view.html.value
    data, _ = box._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] A budget")


def test_at_a_quarter_no_selection_and_no_eviction_answers() -> None:
    found = chart.points(record("quality"))
    best = l20_widget.fitting(found, 0.248, "answer")[: l20_widget.SHOWN]
    assert {l20_widget.KNOBS[p.family] for p in best} == {"codec", "several"}
    assert found["full"].right == 14 == l20_widget.fitting(found, 0.27, "answer")[0].right


def test_designs_that_ran_are_stars_on_the_chart() -> None:
    found = chart.points(record("quality"))
    whole = found["full"].stored
    stars = {
        "a": l20_design.Trial(0.02, 0.2, 9.0, 4, 16, ()),
        "b": l20_design.Trial(0.5, 0.2, 0.0, 16, 16, ()),
        "c": l20_design.NotRun("not yet"),
    }
    figure: Any = l20_figures.budget_figure(found.values(), 0.25, stars)
    losses = ([9.0, chart.LEAST], [0.25, 1.0])
    for ax, wanted in zip(figure.axes[:2], losses, strict=True):
        at = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "*"]
        assert [x for x, _ in at] == pytest.approx([0.02 * whole, 0.5 * whole])
        assert [y for _, y in at] == pytest.approx(wanted)
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert all(left < x < right and low < y < high for x, y in at), "none lies outside"
        assert {"a", "b"} <= {text.get_text() for text in ax.texts}


def test_the_budget_is_a_line_on_the_chart() -> None:
    found = chart.points(record("quality"))
    figure: Any = l20_figures.budget_figure(found.values(), 0.25)
    lines = [line.get_xdata()[0] for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    assert any(x == pytest.approx(0.25 * found["full"].stored) for x in lines)


# --- predictions and claims -------------------------------------------------------------------------------

GUESSES: list[dict[str, Any]] = [
    {"id": "03.speed", "text": "how fast?", "choices": [], "low": 1, "high": 2000, "log": True, "unit": "×",
     "value": 54.0, "measured": 27.0},
    {"id": "04.broken", "text": "how many?", "choices": ["one", "two"], "value": "one", "measured": "two"},
    {"id": "05.open", "text": "not revealed", "choices": ["a"], "value": "a"},
]  # fmt: skip


def test_predictions_stand_beside_what_was_measured() -> None:
    page = l20_said.said(GUESSES)
    assert [row[0] for row in page.rows] == ["03.speed", "04.broken"]
    assert page.rows[0][2:] == ["54×", "27×", "2.0 times"] and page.rows[1][4] == "no"
    assert "0 of 1 choices were right" in page.text and "2.0 times off" in page.text
    (ax,) = cast(Any, l20_figures.predictions_figure(page.numbers)).axes
    assert any([float(x) for x in line.get_xdata()] == [1, 2] for line in ax.lines)
    assert "how fast?" in page._repr_mimebundle_()["text/html"]


def test_nothing_predicted_is_one_fixed_line() -> None:
    assert l20_said.said([])._repr_mimebundle_()["text/plain"] == l20_said.NOTHING


def test_the_claims_are_judged_as_their_lessons_judge_them() -> None:
    for lesson, key, claim, verdict_there in l20.CLAIMS:
        (path,) = NOTEBOOKS.glob(f"{lesson}_*.ipynb")
        code = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        said = re.search(rf'"{key}": \(\s*"(true|false|depends)"', code)
        assert said and said[1] == verdict_there, (lesson, key)
        text = re.search(rf'"{key}": ((?:"[^"]*"\s*)+)', code)
        assert text and "".join(re.findall(r'"([^"]*)"', text[1])) == claim, (lesson, key)


def test_what_is_said_of_copying() -> None:
    points = chart.points(quality_run())
    text, copied = prose("20"), {name: p.copied for name, p in points.items()}

    def said(name: str) -> str:
        return f"{copied[name]:.2f}"[1:]

    four = [
        copied[n]
        for n in points
        if re.search(r"^(token|channel|kivi|hadamard|hadamard-head|turbo|plain-kivi)-4", n)
    ]
    assert len(four) == 11 and f"Four bits keep {min(four):.2f} to {max(four):.2f}".replace("0.", ".") in text
    assert f"unless one scale serves a whole tensor ({said('tensor-4')})" in text
    both = said("int4+snapkv-25"), said("int4+snapkv-50")
    most = max(p.copied for p in points.values() if p.family == "eviction" and not math.isnan(p.copied))
    two, most_of_all = said("kivi-2-sink"), f"{most:.2f}"[1:]
    assert f"KIVI's two bits with four exact sinks keep {two}, the two combinations" in text
    assert "combinations {} and {}, and no eviction more than {}.".format(*both, most_of_all) in text
    assert f"the full cache gets {said('full')} of them" in text
    whole = points["full"].stored
    third = [n for n, p in points.items() if p.stored < whole / 3 and not math.isnan(p.copied)]
    best = max(third, key=lambda n: copied[n])
    assert best == "hadamard-head-4" and round(100 * points[best].stored / points["full"].stored) == 33
    row = "| rotated, 4 bits, one scale a vector | 33 %"
    assert f"{row} | {said(best)} of random tokens; full cache {said('full')} |" in text
