"""Lesson 06: draws against distributions, orders against both libraries, loops, figures, and the widget."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kvlab
from kvlab.lesson import l06, l06_figures, l06_libraries, l06_loops, l06_sampler
from kvlab.lesson.recorded import NotMeasured
from kvlab.model import Decoder
from kvlab.sampling import Sampling

LOGITS = torch.log(torch.tensor([0.06, 0.40, 0.10, 0.25, 0.04, 0.15]))  # not in order
SHARES = LOGITS.softmax(0)
TEXT = "The cat"


pytestmark = pytest.mark.usefixtures("no_gradients")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- distributions and orders ---------------------------------------------------------------------------


def test_entropy_and_the_tokens_that_hold_a_share() -> None:
    assert l06.entropy(torch.full((8,), 1 / 8)) == pytest.approx(2.0794415, abs=1e-6)
    assert l06.entropy(torch.tensor([1.0, 0.0])) == 0
    assert [l06.holding(SHARES, p) for p in (0.3, 0.5, 0.7, 0.85, 0.99)] == [1, 2, 3, 4, 6]


def test_the_steps_are_those_of_the_package_in_its_order() -> None:
    logits = torch.randn(40, generator=generator())
    for sampling in (Sampling(1.5, 20, 0.8, 0.2), Sampling(0.7, top_p=0.6), Sampling(2.0, min_p=0.3)):
        stepped = l06.apply(logits, l06.steps(sampling).values())
        assert torch.equal(stepped, sampling.filter(logits[None])[0])
    assert list(l06.steps(Sampling(1.0, 3, 0.5, 0.1))) == ["temperature", "top-k", "top-p", "min-p"]
    assert l06.steps(Sampling()) == {}


def test_only_steps_that_read_probabilities_care_about_the_temperature() -> None:
    logits = torch.randn(200, generator=generator()) * 2
    assert len(set(l06.orders(logits, Sampling(2.0, top_k=20)).values())) == 1
    assert len(set(l06.orders(logits, Sampling(2.0, top_p=0.8)).values())) == 2
    assert len(set(l06.orders(logits, Sampling(2.0, min_p=0.2)).values())) == 2
    assert len(l06.orders(logits, Sampling(2.0, 20, 0.8, 0.2))) == 24


@pytest.mark.weights
def test_the_figures_of_the_lesson_on_the_real_model(smollm2: Decoder) -> None:
    logits = l06.next_logits(smollm2, "My favourite animal is the")
    assert l06.holding(logits.softmax(0), 0.9) == 704
    assert l06.holding(l06.next_logits(smollm2, "Once upon a time").softmax(0), 0.9) == 1
    counts = sorted(set(l06.orders(logits, Sampling(1.5, 100, 0.9, 0.05)).values()))
    assert counts == [21, 23, 28, 65, 79, 100]
    assert l06.kept(Sampling(1.5, top_p=0.9).filter(logits)) == pytest.approx(5877, abs=2)
    assert l06.kept(Sampling(1.5, min_p=0.1).filter(logits)) == 42


# --- both libraries -------------------------------------------------------------------------------------


def test_the_counts_of_the_libraries_are_those_of_their_order() -> None:
    logits = torch.randn(500, generator=generator()) * 3
    for rule, value in (("top_p", 0.9), ("min_p", 0.1)):
        rows = l06_libraries.kept_by(logits, 2.0, rule, value)
        hot, cold = (l06.kept(Sampling(T, **{rule: value}).filter(logits)) for T in (2.0, 1.0))
        assert [count for *_, count in rows] == [hot, hot, cold] and hot > cold
    assert l06_libraries.default_filter(logits) == 50


def test_without_the_libraries_the_lesson_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(l06_libraries, "find_spec", lambda _name: None)
    rows = l06_libraries.kept_by(LOGITS, 1.0, "top_p", 0.9)
    assert not rows and isinstance(rows, NotMeasured) and "kvlab[interop]" in rows.text
    assert not l06_libraries.default_filter(LOGITS)


def test_generate_of_transformers_takes_the_temperature_first() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    model.lm_head.weight.data.normal_(std=2.0)
    settings: dict[str, Any] = {"temperature": 2.0, "top_k": 60, "top_p": 0.8, "min_p": 0.05}
    out = model.generate(
        torch.tensor([[1, 2, 3]]), max_new_tokens=1, do_sample=True, output_scores=True, output_logits=True,
        return_dict_in_generate=True, pad_token_id=0, **settings,
    )  # fmt: skip
    ours = Sampling(**settings).filter(out.logits[0])
    assert torch.allclose(ours, out.scores[0], atol=1e-6)
    assert 1 < l06.kept(ours[0]) < 60
    cold = Sampling(1.0, 60, 0.8, 0.05).filter(out.logits[0])
    assert l06.kept(cold[0]) != l06.kept(ours[0]), "with this model the order would show"


def test_generate_of_x_transformers_filters_before_the_temperature() -> None:
    xt = pytest.importorskip("x_transformers")
    torch.manual_seed(0)
    layers = xt.Decoder(dim=16, depth=1, heads=2)
    net = xt.TransformerWrapper(num_tokens=97, max_seq_len=32, attn_layers=layers)
    model, prompt, given = xt.AutoregressiveWrapper(net), torch.tensor([[1, 2, 3]]), []

    def only_best(logits: torch.Tensor) -> torch.Tensor:
        given.append(logits)
        return logits

    model.generate(prompt, 1, temperature=7.0, filter_logits_fn=only_best)
    assert torch.allclose(given[0], net(prompt)[:, -1], atol=1e-5), "the filter sees logits as they are"


# --- drawing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["walk", "race"])
def test_draws_follow_the_distribution(draw: str) -> None:
    n = 20_000
    u = torch.rand((n,) if draw == "walk" else (n, 6), dtype=torch.float64, generator=generator())
    ids = l06.walk(SHARES, u) if draw == "walk" else l06.race(SHARES.expand(n, -1), u)
    counts = torch.bincount(ids, minlength=6)
    assert l06.chi_square(counts, n * SHARES) < 20.5  # exceeded once in 1,000 times, 5 degrees of freedom
    warmer = (LOGITS / 1.1).softmax(0)
    assert l06.chi_square(counts, n * warmer) > 20.5, "the test can fail"
    assert l06.frequencies(ids, 6).tolist() == pytest.approx((counts / n).tolist())


def test_a_walk_ends_where_the_sum_passes_u() -> None:
    p = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0])
    u = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 0.999])
    assert l06.walk(p, u).tolist() == [1, 1, 3, 3, 4, 4]
    assert l06.walk(p.expand(6, -1), u).tolist() == [1, 1, 3, 3, 4, 4]


def test_a_race_never_draws_what_was_filtered() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0]])
    for u in ([0.5, 0.0, 0.999], [1.0, 0.3, 1.0]):
        assert l06.race(p, torch.tensor([u], dtype=torch.float64)).tolist() == [1]


def test_flips_are_none_for_equal_logits_and_many_for_others() -> None:
    one = torch.randn(3, 50, generator=generator())
    assert l06.flips(one, one.clone(), Sampling(1.0)) == (0, 0)
    walked, raced = l06.flips(one, one + 0.5 * torch.randn(3, 50, generator=generator(1)), Sampling(1.0))
    assert walked > 0.1 and raced > 0.1


def test_first_difference_and_repetition() -> None:
    assert l06.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert l06.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert l06.repeated([1, 2, 3, 4, 5, 6]) == 0
    assert l06.repeated([1, 2] * 5) == pytest.approx(5 / 7)


# --- loops ----------------------------------------------------------------------------------------------

SETTINGS = [Sampling(), Sampling(0.7), Sampling(1.0, top_k=9), Sampling(2.0, 50, 0.95, 0.01)]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_the_same_numbers_give_the_same_tokens_with_any_cache(exact: Decoder, sampling: Sampling) -> None:
    loops = [
        l06_loops.naive(exact),
        l06_loops.cached(exact),
        l06_loops.cached(exact, store="static", capacity=40, batch=3),
        l06_loops.shifted(exact, by=0),
    ]
    texts = [l06_loops.write(exact, loop, TEXT, sampling, 12, seed=4, rows=3).ids for loop in loops]
    assert texts[0].shape == (3, 12)
    assert all(torch.equal(texts[0], text) for text in texts[1:])


def test_greedy_loops_write_what_generate_writes(exact: Decoder) -> None:
    wanted = kvlab.generate(exact, TEXT, None, 10, stop_tokens=[], progress=False).ids
    assert l06_loops.write(exact, l06_loops.cached(exact), TEXT, Sampling(), 10).ids[0].tolist() == wanted


def test_chance_is_the_models_own_probability(exact: Decoder) -> None:
    out = l06_loops.write(exact, l06_loops.naive(exact), TEXT, Sampling(2.0), 6, seed=2)
    logits = l06_loops.logits_at_once(exact, TEXT, out.ids[0].tolist())
    own = logits.softmax(-1).gather(1, out.ids[0][:, None])[:, 0]
    assert torch.allclose(out.chance[0].double(), own, atol=1e-6)
    nats = l06_loops.surprise(exact, TEXT, out.ids)
    assert nats == pytest.approx(float(-own.log().mean()), abs=1e-5)


def test_off_by_one_is_wrong_from_the_first_cached_step_on(exact: Decoder) -> None:
    fed = [5, 9, 7, 30, 2]
    wanted = l06_loops.logits_at_once(exact, TEXT, fed)
    right = l06_loops.logits_along(exact, l06_loops.cached(exact), TEXT, fed)
    wrong = l06_loops.logits_along(exact, l06_loops.shifted(exact), TEXT, fed)
    assert (right - wanted).abs().max() < 1e-10
    errors = (wrong - wanted).abs().amax(1)
    assert errors[0] < 1e-10 and errors[1:].min() > 1e-4


@pytest.mark.weights
def test_sampling_hides_the_bug_and_logits_show_it(smollm2: Decoder) -> None:
    text = "The cat is on the mat. The capital of France is"
    right, wrong = (
        l06_loops.write(smollm2, loop(smollm2), text, Sampling(), 16).ids[0].tolist()
        for loop in (l06_loops.cached, l06_loops.shifted)
    )
    assert right == wrong, "greedy text does not show it"
    wanted = l06_loops.logits_at_once(smollm2, text, right)
    got = l06_loops.logits_along(smollm2, l06_loops.shifted(smollm2), text, right)
    fine = l06_loops.logits_along(smollm2, l06_loops.cached(smollm2), text, right)
    assert (got - wanted).abs().max() > 1 and (fine - wanted).abs().max() < 1e-3


def test_dropout_acts_in_train_mode_and_leaves_nothing_behind(exact: Decoder) -> None:
    ids = torch.tensor([[5, 9, 7]])
    before = exact(ids)
    with l06_loops.dropout(exact, 0.3):
        assert torch.equal(exact(ids), before), "eval mode: no dropout"
        exact.train()
        assert not torch.allclose(exact(ids), exact(ids))
    assert not exact.training and torch.equal(exact(ids), before)


# --- figures --------------------------------------------------------------------------------------------


def test_the_rank_figure_plots_sorted_probabilities() -> None:
    (ax,) = l06_figures.by_rank({"a": SHARES, "b": SHARES.flip(0)}).axes
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 3]] * 2
    assert [line.get_ydata().tolist() for line in ax.lines] == [pytest.approx([0.4, 0.15])] * 2


def test_the_line_is_cut_by_probability_and_marked() -> None:
    (ax,) = l06_figures.on_a_line(["a", " b", "c"], [0.5, 0.3, 0.2], [0.1, 0.9]).axes
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [
        pytest.approx(piece) for piece in ((0, 0.5), (0.5, 0.3), (0.8, 0.2))
    ]
    assert list(ax.lines[0].get_xdata()) == [0.1, 0.9]


def test_the_other_figures_plot_what_they_are_given() -> None:
    (ax,) = l06_figures.kept_figure([1, 2], {"top-k": [5, 5], "top-p": [3, 9]}).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[5, 5], [3, 9]]
    top, bottom = l06_figures.chances({"a": SHARES, "b": SHARES / 2}, alt="x").axes
    assert [bar.get_height() for bar in bottom.patches] == pytest.approx((SHARES / 2).tolist())
    (ax,) = l06_figures.errors_figure({"bug": [1e-9, 2.0], "right": [1e-5, 3e-5]}, bound=1e-5).axes
    assert ax.lines[0].get_ydata().tolist() == [1e-5, 2.0]


# --- the widget -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def widget(tiny: Decoder) -> l06_sampler.Sampler:
    return l06_sampler.Sampler(tiny, ["The cat", "Once"])


def after(widget: l06_sampler.Sampler) -> l06_sampler.Found:
    """What the widget's own settings make of its prompt, by the package's sampler."""
    values = [widget.temperature.value, widget.top_k.value, widget.top_p.value, widget.min_p.value]
    return l06_sampler.examine(widget.texts[widget.prompt.value], l06_sampler.setting(*values))


def test_the_widget_draws_from_what_the_sampler_says(tiny: Decoder) -> None:
    text = l06_sampler.prepare(tiny, "The cat")
    own = l06.next_logits(tiny, "The cat")
    assert torch.equal(text.logits, own.sort(descending=True).values)
    assert text.words[0] == tiny.tokenizer.token(int(own.argmax()))
    sampling = Sampling(1.3, 12, 0.8, 0.1)
    found = l06_sampler.examine(text, sampling)
    wanted = sampling.probabilities(own[None])[0].sort(descending=True).values
    assert torch.allclose(found.after, wanted, atol=1e-6)
    left = int((wanted > 0).sum())
    assert list(found.left) == ["top-k", "top-p", "min-p"] and found.left["min-p"] == left
    assert found.left["top-k"] == 12
    assert [name is None for name in found.dropped] == [p > 0 for p in wanted[: len(text.words)].tolist()]
    assert found.mass == pytest.approx(float(own.softmax(0).sort(descending=True).values[:left].sum()))


def test_each_control_moves_the_table(widget: l06_sampler.Sampler) -> None:
    widget.buttons["as it is"].click()
    shown = [widget.view.html.value]
    for control, value in (
        (widget.temperature, 1.5), (widget.top_k, 100), (widget.top_p, 0.5), (widget.min_p, 0.3),
        (widget.prompt, "Once"),
    ):  # fmt: skip
        control.value = value
        shown.append(widget.view.html.value)
        count = int((after(widget).after > 0).sum())
        assert f"kept: <b>{count:,}</b>" in shown[-1]
    assert len(set(shown)) == len(shown)


def test_a_button_sets_all_knobs_and_draws_once(widget: l06_sampler.Sampler) -> None:
    for name, values in l06_sampler.PRESETS.items():
        widget.buttons[name].click()
        knobs = widget.temperature, widget.top_k, widget.top_p, widget.min_p
        assert tuple(knob.value for knob in knobs) == values
        text, found = widget.texts[widget.prompt.value], after(widget)
        assert widget.view.html.value == l06_sampler.shown(text, found)
    widget.buttons["greedy"].click()
    html = widget.view.html.value
    assert "kept: <b>1</b>" in html and html.count(">greedy<") == l06_sampler.SHOWN - 1


def test_filters_at_their_ends_are_off() -> None:
    assert l06_sampler.setting(1.0, "off", 1.0, 0.0) == Sampling(1.0)
    assert l06_sampler.setting(0.5, 20, 0.9, 0.1) == Sampling(0.5, 20, 0.9, 0.1)


def test_the_widget_has_a_picture(widget: l06_sampler.Sampler) -> None:
    data, _ = widget._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Sampler")
    text = widget.texts["The cat"]
    found = l06_sampler.examine(text, Sampling(1.0, top_k=3))
    (ax,) = l06_sampler.sampler_figure([("x", text, found)]).axes
    heights = [bar.get_width() for bar in ax.patches]
    n = len(text.words)
    assert heights == pytest.approx([*found.before[:n].tolist(), *found.after[:n].tolist()])
    assert [t.get_text() for t in ax.texts][3:] == ["dropped"] * (n - 3)
