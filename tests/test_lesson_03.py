"""Lesson 03: its measurements, against independent ones; what its figures plot; its widgets, driven here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kvlab
from kvlab.lesson import l03, l03_figures, l03_forget, l03_stepper, l03_steps
from kvlab.lesson.l03_steps import Cell
from kvlab.lesson.recorded import NotMeasured, Recorded
from kvlab.lesson.style import BACKGROUND, BLUE, GREEN, RUST
from kvlab.measure.report import read_report
from kvlab.measure.watch import rows_computed
from kvlab.model import Decoder

LONG = "The cat is on the mat. The dog is on the sofa. The cat is on the mat. The dog is on the"


pytestmark = pytest.mark.usefixtures("no_gradients")


def ids_of(lm: Decoder, text: str) -> list[int]:
    return lm.tokenizer.encode(text)


# --- measurements ---------------------------------------------------------------------------------------


def test_the_plain_forward_has_the_keys_of_the_decoder(exact: Decoder) -> None:
    ids = ids_of(exact, "The cat is on the mat")
    with kvlab.record(exact) as seen:
        exact(torch.tensor([ids]))
    decoder = torch.stack([seen.keys[i][0] for i in range(exact.config.num_hidden_layers)])
    assert (l03.keys_of(exact, ids) - decoder).abs().max() < 1e-12


def test_without_the_mask_every_token_sees_all(exact: Decoder) -> None:
    """The last token is another: from layer 1 on the keys of the tokens before it move as well."""
    ids = [5, 9, 7]
    keys = l03.keys_of(exact, ids, causal=False)
    other = l03.keys_of(exact, [5, 9, 8], causal=False)
    assert l03.change(keys, other)[0].tolist()[:2] == [0, 0]  # layer 0: made of the token alone
    assert (l03.change(keys, other)[1:] > 1e-6).all()


def test_appending_moves_no_key_but_bidirectional_ones(exact: Decoder) -> None:
    short, long = ids_of(exact, "The cat is on the"), ids_of(exact, "The cat is on the mat")
    causal, both = (
        l03.change(l03.keys_of(exact, short, c), l03.keys_of(exact, long, c)) for c in (True, False)
    )
    assert causal.shape == (exact.config.num_hidden_layers, len(short))
    assert causal.max() < 1e-12
    assert both[0].max() < 1e-12 and both[1:].min() > 1e-6


def test_a_changed_token_moves_itself_in_layer_0_and_all_later_ones_above(exact: Decoder) -> None:
    ids = ids_of(exact, LONG)
    other = [*ids[:5], ids[5] + 1, *ids[6:]]
    moved = l03.change(l03.keys_of(exact, ids), l03.keys_of(exact, other))
    assert moved[:, :5].max() < 1e-12
    assert (moved[0] > 1e-9).nonzero().flatten().tolist() == [5]
    assert moved[1:, 5:].min() > 1e-9


@pytest.mark.weights
def test_the_figures_of_the_lesson_on_the_real_model(smollm2: Decoder) -> None:
    short, long = ids_of(smollm2, "The cat is on the"), ids_of(smollm2, "The cat is on the mat")
    both = l03.change(l03.keys_of(smollm2, short, causal=False), l03.keys_of(smollm2, long, causal=False))
    assert round(float(both.max()), 1) == 3.7
    assert round(float(l03.keys_of(smollm2, long, causal=False).std()), 1) == 2.1


def test_rows_are_counted_and_follow_the_formulas(tiny: Decoder) -> None:
    prompt, new = [1, 2, 3, 4], 6
    for cache, formula in ((None, l03.naive_rows), (kvlab.Cache(tiny), l03.cached_rows)):
        with rows_computed(tiny) as rows:
            kvlab.generate(tiny, prompt, cache, new, stop_tokens=[], progress=False)
        assert sum(rows) == formula(len(prompt), new)
        tiny(torch.tensor([[1]]))
        assert len(rows) == new, "nothing is counted after the block"


def test_without_own_hides_the_newest_entry_from_itself_only(exact: Decoder) -> None:
    ids = ids_of(exact, "Water")
    wrong = kvlab.Cache(exact, store=l03.WithoutOwn())
    exact(torch.tensor([ids[:-1]]), wrong)
    with kvlab.record(exact) as seen:
        exact(torch.tensor([ids[-1:]]), wrong)
    for layer in range(exact.config.num_hidden_layers):
        weights = seen.attention[layer][0, :, 0]  # [heads, slots]
        assert (weights[:, -1] == 0).all() and torch.allclose(weights.sum(-1), torch.ones(()).double())
    assert wrong.tokens_stored.tolist() == [len(ids)], "the entry itself is kept"
    with kvlab.record(exact) as seen:
        exact(torch.tensor([[1]]), wrong)
    assert (seen.attention[0][0, :, 0, -2] > 0).all(), "and later tokens see it"


@pytest.mark.weights
def test_leaving_out_own_keys_and_values_makes_the_sum_wrong(smollm2: Decoder) -> None:
    ask = "Q: What is 12 + 30?\nA:"
    caches = kvlab.Cache(smollm2), kvlab.Cache(smollm2, store=l03.WithoutOwn())
    texts = [kvlab.generate(smollm2, ask, c, 12, stop="\n", progress=False).text for c in caches]
    assert texts == [" 12 + 30 = 42", " 12 + 30 = 320"]


def test_try_step_compares_with_causal_attention() -> None:
    q, k, v = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))

    def right(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Any:
        keys, values = torch.vstack((keys, k)), torch.vstack((values, v))
        return (keys @ q / 8**0.5).softmax(0) @ values, keys, values

    assert "off by 0.000" in l03.try_step(right, q, k, v)
    assert "off by 0.000" not in l03.try_step(lambda *g: (g[2], *right(*g)[1:]), q, k, v)
    assert "returns nothing yet" in l03.try_step(lambda *g: None, q, k, v)


# --- recorded runs --------------------------------------------------------------------------------------

NAIVE = {16: 0.06, 256: 0.6, 1024: 2.4}
CACHED = {16: 0.03, 256: 0.04, 1024: 0.05}


def record(folder: Path, name: str, **changes: Any) -> None:
    rows = [
        {"model": "smollm2-135m", "context": n, "batch": batch, "path": path, "median": s * batch}
        for path, points in (("naive", NAIVE), ("dynamic", CACHED))
        for n, s in points.items()
        for batch in (1, 4)
    ]
    data = {
        "schema": 1, "bench": "decode", "device": "a processor", "machine": {}, "date": "2026-01-01T00:00:00",
        "versions": {"torch": "2.13"}, "commit": "abc", "command": "python -m kvlab bench decode",
        "parameters": {"device": "cpu"}, "rows": rows, **changes,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")


def test_the_record_is_found_by_its_device_and_its_points(tmp_path: Path) -> None:
    assert isinstance(l03.decode_run("cpu", tmp_path), NotMeasured)
    record(tmp_path, "other", bench="rope_pairs", rows=[{"pairs": None}])
    record(
        tmp_path, "compiled", rows=[{"model": "m", "context": 1, "batch": 1, "path": "static", "median": 1.0}]
    )
    record(tmp_path, "b")
    record(tmp_path, "gpu-decode", bench="gpu decode", parameters={})
    found = l03.decode_run("cpu", tmp_path)
    assert isinstance(found, Recorded) and found.name == "b"
    assert l03.decode_run("cuda", tmp_path).name == "gpu-decode"
    assert l03.step_points(found, "naive") == list(NAIVE.items())  # batch 1 only
    assert dict(l03.speedup_points(found))[1024] == pytest.approx(48)
    assert l03.nearest_context(found, 1000) == 1024
    assert l03.nearest_context(NotMeasured("x", "not yet"), 1000) == 1000


def test_flop_ratio_counts_rows_and_attention(smollm2: Decoder) -> None:
    """By hand: 2 FLOPs for each weight and row, 4 · heads · head_dim for each pair of query and key."""
    c, n = smollm2.config, 1024
    body = sum(p.numel() for p in smollm2.layers.parameters() if p.dim() == 2)
    pairs = 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim
    head = 2 * c.hidden_size * c.vocab_size
    naive = 2 * body * (n + 1) + head + pairs * (n + 1) * (n + 2) // 2
    cached = 2 * body + head + pairs * (n + 1)
    assert l03.flop_ratio(c, n) == pytest.approx(naive / cached, rel=1e-9)


def test_live_steps_are_timed_after_the_same_context(tiny: Decoder) -> None:
    live = l03.time_steps(tiny, 12, rounds=2)
    assert list(live) == ["naive", "with a cache"]
    assert all(context == 12 and 0 < seconds < 5 for context, seconds in live.values())


# --- figures --------------------------------------------------------------------------------------------


def test_rows_figure_plots_counts_and_formula() -> None:
    (ax,) = l03_figures.rows_figure([3, 4, 5, 6], prompt=3).axes
    curves = [line.get_ydata().tolist() for line in ax.lines]
    assert curves == [[3, 7, 12, 18], [3, 7, 12, 18], [3, 4, 5, 6]]


def test_change_maps_leave_blank_what_did_not_move() -> None:
    still, moved = torch.zeros(4, 2), torch.tensor([[0, 0.5], [0, 2], [1e-6, 0.1], [0, 20]])
    figure = l03_figures.change_maps([still, moved], [["a", " b"]] * 2, ["one", "two"])
    shown = [np.ma.filled(ax.images[0].get_array().astype(float), np.nan) for ax in figure.axes[:2]]
    assert np.isnan(shown[0]).all() and "no key" in figure.axes[0].texts[0].get_text()
    assert np.isnan(shown[1][:, 0]).all()
    assert shown[1][:, 1].tolist() == pytest.approx([0.5, 2, 0.1, 20])
    assert figure.alt == "one: largest change 0.0; two: largest change 20.0"


def test_times_and_speedups_plot_the_record(tmp_path: Path, smollm2: Decoder) -> None:
    record(tmp_path, "decode-cpu")
    run = Recorded("decode-cpu", read_report(tmp_path / "decode-cpu.json"))
    live = {"naive": (256, 0.7), "with a cache": (256, 0.05)}
    (ax,) = l03_figures.step_times(run, live).axes
    naive, cached, *stars = [line.get_ydata() for line in ax.lines]
    assert list(naive) == pytest.approx([60, 600, 2400]) and list(cached) == pytest.approx([30, 40, 50])
    assert [float(star[0]) for star in stars] == pytest.approx([700, 50])
    (ax,) = l03_figures.speedups(run, smollm2.config).axes
    flops, times = (line.get_ydata() for line in ax.lines)
    assert list(times) == pytest.approx([2, 15, 48])
    assert list(flops) == pytest.approx([l03.flop_ratio(smollm2.config, n) for n in NAIVE])
    missing = NotMeasured("decode", "not yet")
    assert (
        l03_figures.step_times(missing) is missing
        and l03_figures.speedups(missing, smollm2.config) is missing
    )


def test_bytes_read_and_deletions_plot_what_they_are_given() -> None:
    (ax,) = l03_figures.bytes_read([16, 64], 5_000_000, [1_000_000, 4_000_000], [1e6, float("nan")]).axes
    assert [line.get_ydata().tolist() for line in ax.lines[:2]] == [[5, 5], [1, 4]]
    assert ax.lines[2].get_ydata()[0] == 1 and np.isnan(ax.lines[2].get_ydata()[1])
    (ax,) = l03_figures.deletions([0.5, 0.1], ["a", " b"], 0.6, " c").axes
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.1]
    assert [text.get_text() for text in ax.texts] == ["nothing forgotten", "10%"]


# --- the stepper ----------------------------------------------------------------------------------------


def test_the_naive_side_computes_all_and_the_cached_side_one_row() -> None:
    naive, cached = (l03_steps.grid(side, prompt=3, step=2) for side in ("naive", "cached"))
    assert [row[1].marks for row in naive] == ["cr"] * 5
    assert [row[0].colour for row in naive] == [RUST] * 4 + [BLUE]
    assert [tuple(cell.marks for cell in row) for row in cached] == [("", "r", "r")] * 4 + [
        ("c", "crw", "crw")
    ]
    assert [row[1].colour for row in cached] == [GREEN] * 4 + [BLUE]
    assert cached[0][0].colour == BACKGROUND
    prefill = l03_steps.grid("cached", prompt=3, step=0)
    assert prefill == [(Cell(True), Cell(True, False, True, True), Cell(True, False, True, True))] * 3


def test_forgetting_own_entries_means_written_but_not_read() -> None:
    *_, newest = l03_steps.grid("cached", prompt=3, step=1, own=False)
    assert [cell.marks for cell in newest] == ["c", "cw", "cw"]
    assert l03_steps.grid("cached", prompt=3, step=0, own=False) == l03_steps.grid("cached", prompt=3, step=0)


def test_the_counters_are_those_of_a_real_generation(tiny: Decoder) -> None:
    config, prompt, steps = tiny.config, 3, 4
    cache = kvlab.Cache(tiny)
    with rows_computed(tiny) as rows:
        kvlab.generate(tiny, [1, 2, 3], cache, steps + 1, stop_tokens=[], progress=False)
    found = l03_steps.total(config, "cached", prompt, steps, itemsize=4)
    assert found.rows == sum(rows) and found.held == cache.nbytes
    last = l03_steps.counters(config, "cached", prompt, steps, itemsize=4)
    assert (last.rows, last.read) == (1, cache.bytes_read)
    entry = cache.nbytes // (prompt + steps)
    assert l03_steps.counters(config, "cached", prompt, steps, 4, own=False).read == last.read - entry
    naive = l03_steps.total(config, "naive", prompt, steps, itemsize=4)
    assert (naive.rows, naive.held) == (l03.naive_rows(prompt, steps + 1), 0)
    assert naive.read == found.read, "a cache saves computing keys and values, not reading them"
    assert naive.flops > found.flops


@pytest.fixture(scope="module")
def found(tiny: Decoder) -> l03_steps.Trace:
    return l03_steps.trace(tiny, "Wat", steps=3)


def test_the_trace_is_the_models_own_greedy_text(tiny: Decoder, found: l03_steps.Trace) -> None:
    text = kvlab.generate(tiny, "Wat", None, 4, stop_tokens=[], progress=False)
    words = [tiny.tokenizer.token(i) for i in text.ids]
    assert found.tokens == ["W", "a", "t", *words[:3]] and [w for w, _ in found.words] == words
    assert found.errors[0] < 1e-5 and min(found.errors[1:]) > 1e-3
    assert found.steps == 3


def test_the_stepper_moves(found: l03_steps.Trace) -> None:
    widget = l03_stepper.stepper(found, step=2)
    shown = widget.view.html
    assert "step 2 of 3" in shown.value and shown.value.count(">crw<") == 2
    widget.next.click()
    assert widget.slider.value == 3 and "step 3 of 3" in shown.value
    widget.next.click()
    assert widget.slider.value == 0 and "Prefill" in shown.value and shown.value.count(">crw<") == 6
    widget.forget.value = True
    assert "take one" in shown.value
    widget.slider.value = 1
    assert shown.value.count(">cw<") == 2 and f"logit error is {found.errors[1]:.1f}" in shown.value
    widget.forget.value = False
    assert shown.value.count(">cw<") == 0 and "on both sides" in shown.value


def test_the_stepper_has_a_picture(found: l03_steps.Trace) -> None:
    data, _ = l03_stepper.stepper(found, step=1)._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Stepper")
    figure = l03_stepper.stepper_figure(found, 1)
    marks = [text.get_text() for text in figure.axes[1].texts]
    assert marks == ["·", "r", "r"] * 3 + ["c", "crw", "crw"]


# --- forget one -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tiny: Decoder) -> l03_forget.Context:
    return l03_forget.Context(tiny, "The cat sat")


def test_forgetting_everything_leaves_the_last_token_alone(exact: Decoder) -> None:
    context = l03_forget.Context(exact, "The cat sat")
    last = exact(torch.tensor([ids_of(exact, "t")]))[0, -1]
    assert (context.logits(range(10)) - last).abs().max() < 1e-12
    whole = exact(torch.tensor([ids_of(exact, "The cat sat")]))[0, -1]
    assert (context.logits() - whole).abs().max() < 1e-12


def test_one_at_a_time_is_each_alone(exact: Decoder) -> None:
    context = l03_forget.Context(exact, "The cat sat")
    together = context.one_at_a_time
    apart = torch.stack([context.logits([i]) for i in range(10)])
    assert (together - apart).abs().max() < 1e-12
    assert [w for w, *_ in context.words([3])] == [
        exact.tokenizer.token(int(i)) for i in apart[3].topk(5).indices
    ]


def test_boxes_and_buttons_move_the_words(context: l03_forget.Context) -> None:
    widget = l03_forget.forget_one(context, {"keep all": [], "two": [0, 2], "all": range(10)}, beside="two")
    assert [box.description for box in widget.boxes][:4] == ["T", "h", "e", "␣"]
    everything = widget.html.value
    assert "10 of 10 entries" in everything and "was " not in everything
    widget.boxes[4].value = False
    assert widget.forgotten == [4] and "9 of 10 entries" in widget.html.value
    assert "line-through" in widget.html.value and "was " in widget.html.value
    widget.buttons["two"].click()
    assert widget.forgotten == [0, 2] and "8 of 10 entries" in widget.html.value
    widget.buttons["all"].click()
    assert "0 of 10 entries, 0 KB" in widget.html.value
    widget.buttons["keep all"].click()
    assert widget.html.value == everything
    assert int(context.cache.tokens_stored) == 10, "the cache of the widget itself forgets nothing"


def test_a_button_draws_once(context: l03_forget.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = l03_forget.forget_one(context, {"most": range(9)}, beside="most")
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(l03_forget, "shown", lambda _context, gone: asked.append(tuple(gone)) or "")
    widget.buttons["most"].click()
    assert asked == [tuple(range(9))]


def test_the_words_figure_plots_the_probabilities(context: l03_forget.Context) -> None:
    panels = {"full": context.words(), "less": context.words([1])}
    figure = l03_forget.words_figure(panels)
    for ax, words in zip(figure.axes, panels.values(), strict=True):
        assert [bar.get_width() for bar in ax.patches] == pytest.approx([p for _, p, _ in words])


@pytest.mark.weights
def test_sofa_is_forgotten_as_the_lesson_says(smollm2: Decoder) -> None:
    context = l03_forget.Context(smollm2, LONG)
    assert context.tokens[12:14] == [" so", "fa"]
    [so] = ids_of(smollm2, " so")
    chance = context.one_at_a_time.softmax(-1)[:, so]
    assert round(context.full[so], 2) == 0.54 and round(float(chance[12]), 2) == 0.01
    assert (chance < context.full[so] / 2).nonzero().flatten().tolist() == [12, 13, 20, 25]
    word, p, before = context.words([12, 13])[0]
    assert (word, round(p, 2), round(before, 2)) == (" mat", 0.49, 0.01)
