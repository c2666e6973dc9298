"""Lesson 17: masks, the attention under them, the collapse without sinks, reach, the widget, the record."""

from __future__ import annotations

import pytest
import torch
from said import printed, prose, quality_run, times_said
from small import CONFIG, ids, model, same

import kvlab
from kvlab.lesson import chart, l17, l17_figures, l17_widget
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.measure.quality_stats import each_needle
from kvlab.model import Decoder
from kvlab.zoo import SHAPES

pytestmark = pytest.mark.usefixtures("no_gradients")


# --- masks and what falls on them ------------------------------------------------------------------------


def test_patterns_of_the_lesson_read_about_a_quarter_for_the_last_token() -> None:
    counts = {name: l17.entries(pattern, 256) for name, pattern in l17.PATTERNS.items()}
    assert counts["window"] == counts["sinks + recent"] == counts["dilated"] == 64
    assert all(39 <= count <= 74 for count in counts.values()), counts
    assert l17.entries(None, 256) == 256


def test_a_mask_is_causal_and_the_patterns_own() -> None:
    mask = l17.allowed(l17.PATTERNS["strided"], 40)
    for i in range(40):
        seen = mask[i].nonzero().flatten().tolist()
        assert seen == [j for j in range(i + 1) if i - j < 8 or (i - j) % 8 == 0]
    assert int(l17.allowed(None, 10).sum()) == 55


def test_mass_is_the_attention_on_the_mask() -> None:
    maps = torch.full((1, 2, 4, 4), 0.25)
    maps[0, 1] = torch.eye(4)
    share = l17.mass(maps, l17.allowed(kvlab.LocalWindow(1), 4))
    assert share[0].tolist() == [0.25, 1.0]
    assert l17.parts(torch.arange(6.0), [0, 2, 6]) == [0.5, 3.5]


def test_reading_grows_as_the_lesson_says() -> None:
    for name in ("window", "sinks + recent", "BigBird"):
        assert l17.entries(l17.PATTERNS[name], 16384) <= 80
    assert l17.entries(l17.PATTERNS["strided"], 32768) == pytest.approx(32768 / 8, rel=0.01)
    assert l17.entries(l17.PATTERNS["columns"], 32768) == pytest.approx(32768 * 6 / 32, rel=0.01)


def test_static_patterns_read_the_same_for_any_text(tiny: Decoder) -> None:
    one, other = (torch.randint(0, 200, (1, 40), generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    for pattern in l17.PATTERNS.values():
        assert torch.equal(l17.reads(tiny, one, pattern), l17.reads(tiny, other, pattern))
    oracle = kvlab.TopK(8)
    assert not torch.equal(l17.reads(tiny, one, oracle), l17.reads(tiny, other, oracle))


# --- on the model ----------------------------------------------------------------------------------------


@pytest.mark.weights
def test_a_window_collapses_where_it_loses_the_first_token() -> None:
    """Narrower and shorter than in the lesson, the same cliff."""
    exact = kvlab.load("smollm2-135m")
    given = l17.text(exact, 64)
    full = l17.log_probabilities(exact, given)
    window = l17.kl(full, l17.log_probabilities(exact, given, kvlab.LocalWindow(32)))
    sinks = l17.kl(full, l17.log_probabilities(exact, given, kvlab.AShape(4, 28)))
    assert float(window[:32].max()) < 1e-4 and float(sinks[:32].max()) < 1e-4
    assert l17.parts(window, [32, 40])[0] > 1 > 10 * l17.parts(sinks, [32, 40])[0]


def test_a_change_travels_a_window_a_layer(exact: Decoder) -> None:
    found = l17.front(exact, kvlab.LocalWindow(3), 40)
    assert found[:2] == [2, 4] and all(f <= min(2 * (i + 1), 39) for i, f in enumerate(found))


def test_gemmas_layers_are_windows_and_full() -> None:
    assert l17.layer_reads(SHAPES["gemma3-270m"], 8192) == {"sliding": (15, 512), "full": (3, 8192)}


def test_a_layer_with_a_window_is_the_pattern() -> None:
    """The same weights, once with windows in every layer, once with full layers under LocalWindow."""
    full = CONFIG.replace(layer_types=("full",) * 3, rope_local_theta=None)
    sliding = full.replace(layer_types=("sliding",) * 3, sliding_window=6)
    wanted = model(config=sliding)(ids(1, 30))
    lm = model(config=full)
    assert same(lm(ids(1, 30), kvlab.Cache(lm, selection=kvlab.LocalWindow(6))), wanted)


# --- the widget ------------------------------------------------------------------------------------------


def test_the_widget_shows_what_is_read(exact: Decoder) -> None:
    widget = l17_widget.patterns(exact, "The cat is on the mat. The cat is on")
    before = widget.view.html.value
    assert "**" not in before and "<table" in before
    widget.pattern.value = "sinks + recent"
    assert widget.view.html.value != before and "sinks + recent" in widget.view.html.value
    widget.size.value = widget.size.max
    assert "KL 0.00" in widget.view.html.value.replace("KL -0.00", "KL 0.00")
    story = l17_widget.Story(exact, "The cat is on the mat.")
    found = l17_widget.reading(story, "window", 3, 0, 0)
    c = exact.config
    assert (
        found.read == 3
        and found.bytes_read == 3 * 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    )
    assert found.mass == pytest.approx(float(story.maps[0, 0, -1, -3:].sum()), abs=1e-5)


def test_figures_plot_their_data() -> None:
    masks = {name: l17.allowed(p, 32) for name, p in l17.PATTERNS.items()}
    axes = l17_figures.masks_figure(masks).axes
    assert [ax.get_title(loc="left").split(":")[0] for ax in axes[:6]] == list(l17.PATTERNS)
    (ax, *_) = l17_figures.reach_figure([2, 4, 5], 3).axes
    assert ax.lines[1].get_ydata().tolist() == [2, 4, 5] and ax.lines[0].get_ydata().tolist() == [2, 4, 6]
    kl = {"window": torch.arange(16.0), "BigBird": torch.zeros(16)}
    (ax, *_) = l17_figures.collapse_figure(kl, 8).axes
    assert ax.lines[0].get_ydata().tolist() == [3.5, 11.5]
    counts = {"everything": [64, 128], "window": [64, 64]}
    (ax, *_) = l17_figures.reads_figure(counts, [64, 128]).axes
    assert ax.lines[1].get_ydata().tolist() == [64, 64]
    maps = torch.rand(3, 4)
    assert l17_figures.mass_figure({"a": maps}).axes[0].images[0].get_array().shape == (3, 4)


# --- the records -----------------------------------------------------------------------------------------


def test_what_the_lesson_says_of_its_records() -> None:
    speed = recorded("sparse-cpu")
    assert isinstance(speed, Recorded)
    masked = l17.times_dense(speed.rows, "decode", 32768)["masked, all read"]
    assert 0.85 < masked < 1.15
    assert 8192 in l17.prompt_lengths(speed.rows)
    found = l17.times_dense(speed.rows, "prefill", 8192)
    assert found["dense"] == 1
    assert (round(found["window 1024"], 1), round(found["BigBird 32 × (5 + 1 + 2)"], 1)) == (2.9, 9.6)
    assert round(found["strided 64"], 1) == 1.9
    longer = l17.times_dense(speed.rows, "prefill", 16384)
    assert (round(longer["window 1024"], 1), round(longer["BigBird 32 × (5 + 1 + 2)"], 1)) == (4.9, 13.1)
    assert round(longer["strided 64"], 1) == 3.3
    pairs = {r["way"]: r["pairs"] for r in speed.select(kind="prefill", tokens=16384)}
    assert round(pairs["dense"] / pairs["strided 64"]) == 43
    (axes, *_) = l17_figures.speed_figure(speed, [8192]).axes
    assert [bar.get_width() for bar in axes.patches] == list(found.values())


@pytest.mark.parametrize(
    ("worse", "better", "said", "beyond"),
    [
        ("pattern-window-25", "pattern-sinks-25", "4.2 times as much (1.5 … 12)", True),
        ("pattern-strided-25", "pattern-sinks-25", "strided 5.4 times (2.4 … 12)", True),
        ("pattern-columns-25", "pattern-sinks-25", "columns 4.9 times (2.2 … 11)", True),
        ("pattern-dilated-25", "pattern-sinks-25", "dilated 21 times (10 … 45)", True),
        ("pattern-bigbird-25", "pattern-sinks-25", "1.8 times (1.1 … 2.9)", True),
        ("pattern-sinks-25-decode", "pattern-sinks-25", "1.0 times, 0.9 … 1.2", False),
        ("pattern-window-25-decode", "pattern-window-25", "1.4 times the KL, 0.8 … 2.3", False),
        ("pattern-sinks-25", "oracle-25", "22 times as high as its KL (10 … 48)", True),
    ],
)
def test_prose_says_how_many_times_the_kl(worse: str, better: str, said: str, beyond: bool) -> None:
    assert said in prose("17")
    times_said(worse, better, said, beyond)


def test_what_the_lesson_says_of_needles() -> None:
    judged = chart.points(quality_run())
    patterns = {method: judged[method] for method in l17.RECORDED.values() if method != "oracle-25"}
    assert min(patterns.values(), key=lambda p: p.interval.mean).method == "pattern-sinks-25"
    assert round(judged["pattern-sinks-25"].interval.mean, 2) == 0.16
    assert max(p.right for p in patterns.values()) == 4 and judged["oracle-25"].right == 15
    assert round(max(p.copied for p in patterns.values()), 2) == 0.14
    assert (judged["full"].right, round(judged["full"].copied, 2)) == (14, 0.58)
    assert all(0.19 < p.read < 0.28 for p in patterns.values())


def test_with_sinks_only_the_needles_of_the_last_sixth_are_found() -> None:
    """Depths as `haystack` puts them: row by row deeper, the three needles a third of the page apart."""
    key = [(row + 0.5) / 8 for row in range(8)]
    city = [((row + 0.5) / 8 + (1 + row % 2) / 3) % 1 for row in range(8)]
    hits = each_needle(chart.row(quality_run(), "pattern-sinks-25")["needles"])
    assert hits == [int(depth > 5 / 6) for depth in (*key, *city)]


def test_the_figure_of_losses_plots_the_record() -> None:
    judged = chart.points(quality_run())
    kl, needles = l17_figures.losses_figure(judged, ("pattern-sinks-25", 0.1)).axes
    assert [float(line.get_xdata()[0]) for line in kl.lines if line.get_marker() == "*"] == [0.1]
    dots = [float(line.get_xdata()[0]) for line in needles.lines if line.get_marker() == "o"]
    assert dots == [judged[method].right for method in l17.RECORDED.values()]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("window: 0.51 of the attention", "lift that from .51 to .85"),
        ("sinks + recent: 0.85 of the attention", "with four sinks .85"),
        ("on token 0 alone: 0.35", "holds .35 of the attention"),
        ("window: KL 0.0 up to token 63, 2.8 over the next 8", "KL jumps to 2.8 nats"),
        (
            "sinks + recent: KL 0.0 up to token 63, 0.0 over the next 8, 0.2 after",
            "stays at 0.0 there and .2 later",
        ),
        ("BigBird: KL 0.0 up to token 63, 0.1 over the next 8, 0.4 after", ".1 there, .4 later"),
        ("window: the same entries for both: True", "Even BigBird's random blocks"),
        ("oracle top-24: the same entries for both: False", "A **dynamic** choice looks at the query"),
        ("everything: mass 1.00, KL 0.0, pass key: found", "Only attention to everything finds the key"),
        ("after layers 1, 2, 3, 10: [7, 14, 21, 70]", "exactly 7 positions further"),
    ],
)
def test_prose_says_what_the_cells_have_printed(output: str, said: str) -> None:
    """The outputs themselves are compared anew by nbval; here, that the sentences follow them."""
    assert output in printed("17") and said in prose("17")
    assert printed("17").count("pass key: lost") == len(l17.PATTERNS)
    assert printed("17").count("pass key: found") == 1
