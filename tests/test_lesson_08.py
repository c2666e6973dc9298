"""Lesson 08: growth counted, a cache that moves house, the gauge, and transformers' three traps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.lesson import l08, l08_figures, l08_gauge, l08_peer
from kvlab.lesson.recorded import NotMeasured, Recorded, recorded
from kvlab.measure.growth import WAYS
from kvlab.measure.report import read_report
from kvlab.model import Decoder

TEXT = "The cat is on the mat."


pytestmark = pytest.mark.usefixtures("no_gradients")


def batch(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids])


# --- growth ---------------------------------------------------------------------------------------------


def test_counted_growth_is_the_theory(tiny: Decoder) -> None:
    c = tiny.config
    token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    found = l08.grown(c, 20)
    assert [g.copied[-1] for g in found.values()] == [190 * token, 31 * token, 0]
    assert [l08.theory(c, name, 20) for name in found] == [190 * token, 31 * token, 0]
    assert [g.allocated[-1] // token for g in found.values()] == [20, 32, 20]


def test_a_short_text_in_a_large_cache_wastes_nearly_all(tiny: Decoder) -> None:
    found = l08.grown(tiny.config, 8, capacity=8192)
    held = {name: growth.allocated[-1] // growth.stored[-1] for name, growth in found.items()}
    assert held == {"concatenation": 1, "doubling": 1, "preallocated": 1024}


def test_what_the_lesson_says_of_its_record() -> None:
    run = recorded("growth-cpu")
    assert isinstance(run, Recorded) and not run.report.commit.endswith("dirty")
    concatenation, doubling, preallocated = l08.totals(run)
    assert [t.tokens for t in (concatenation, doubling, preallocated)] == [8192] * 3
    assert {t.allocated for t in (concatenation, doubling, preallocated)} == {377_487_360}
    assert round(concatenation.copied / 1e9) == 1546 and concatenation.copied / concatenation.stored == 4095.5
    assert doubling.copied / doubling.stored < 1 and preallocated.copied == 0
    assert max(t.peak - t.allocated for t in (concatenation, doubling, preallocated)) < 6.5e6
    assert all(row["copied_bytes"] == row["theory_copied_bytes"] for row in run.rows)
    seconds = [t.seconds for t in (concatenation, doubling, preallocated)]
    assert [round(seconds[0]), *(round(s, 1) for s in seconds[1:])] == [71, 2.2, 1.4]
    times = dict(l08.append_points(run, "concatenation"))
    assert (round(1e3 * times[16], 1), round(1e3 * times[8192])) == (0.7, 21)
    doubled = run.select(store="doubling (growth 2.0)", tokens_before=8192)[0]
    assert (round(1e3 * doubled["slowest"]), round(1e3 * doubled["median"], 1)) == (137, 0.3)
    assert l08.totals(NotMeasured("x", "not yet")) == []


def record(folder: Path) -> Recorded:
    rows = [
        {
            "store": way, "tokens_before": n, "tokens_appended": 4, "median": n * (i + 1) / 1e3,
            "slowest": n / 100, "seconds": [n / 100], "copied_bytes": 10**9, "gpu_peak": 2e9,
            "gpu_reserved": 3e9,
        }
        for i, way in enumerate(WAYS)
        for n in (1, 16, 64)
    ]  # fmt: skip
    data = {
        "schema": 1, "bench": "growth", "device": "a processor", "machine": {}, "date": "2026-01-01T00:00:00",
        "versions": {"torch": "2.13"}, "commit": "abc", "command": "x", "parameters": {}, "rows": rows,
    }  # fmt: skip
    (folder / "g.json").write_text(json.dumps(data), encoding="utf-8")
    return Recorded("g", read_report(folder / "g.json"))


# --- figures --------------------------------------------------------------------------------------------


def test_figures_plot_what_was_counted(tiny: Decoder, tmp_path: Path) -> None:
    c = tiny.config
    found = l08.grown(c, 20)
    lengths = [2, 4, 8, 16, 32]
    theory = {name: [l08.theory(c, name, n) for n in lengths] for name in found}
    (ax,) = l08_figures.copied_figure(found, lengths, theory).axes
    formula, counted = (line.get_ydata() * 1e6 for line in ax.lines[:2])
    assert formula.tolist() == pytest.approx(theory["concatenation"])
    assert counted.tolist() == pytest.approx(theory["concatenation"][:4])
    (ax,) = l08_figures.held_figure(found).axes
    for line, growth in zip(ax.lines, found.values(), strict=True):
        assert (line.get_ydata() * 1e6).tolist() == pytest.approx(growth.allocated)
    live = {"concatenation": 0.5, "doubling": 0.2, "preallocated": 0.1}
    (ax,) = l08_figures.append_times(record(tmp_path), (16, live)).axes
    assert [line.get_ydata().tolist() for line in ax.lines[:3]] == [[16, 64], [32, 128], [48, 192]]
    assert [float(line.get_ydata()[0]) for line in ax.lines[4:]] == pytest.approx([500, 200, 100])
    missing = NotMeasured("x", "not yet")
    assert l08_figures.append_times(missing) is missing
    (ax,) = l08_figures.trap_figure([0, 0, 3.5], 2).axes
    assert ax.lines[0].get_ydata().tolist() == [0, 0, 3.5]


# --- capacity -------------------------------------------------------------------------------------------


def test_a_text_needs_one_slot_less_than_its_tokens(exact: Decoder) -> None:
    ids = exact.tokenizer.encode(TEXT)
    cache = kvlab.Cache(exact, store="static", capacity=l08.needed(len(ids), 5))
    new = l08.greedy(exact, cache, ids, 5)
    assert cache.remaining == 0
    assert new == kvlab.generate(exact, ids, None, 5, stop_tokens=[], progress=False).ids


def test_a_larger_cache_goes_on_exactly_and_copies_what_is_stored(exact: Decoder) -> None:
    ids = exact.tokenizer.encode(TEXT)
    small = kvlab.Cache(exact, store="static", capacity=10)
    exact(batch(ids[:10]), small)
    large = l08.enlarged(exact, small, 16)
    assert large.nbytes == small.nbytes and large.remaining == 6
    logits = exact(batch(ids[10:14]), large)[0]
    assert l08.worst(logits, exact(batch(ids[:14]))[0, 10:]) < 1e-10
    assert small.used == 10, "the old one is as it was"
    with pytest.raises(kvlab.CacheError, match="capacity is 9"):
        l08.enlarged(exact, small, 9)
    assert l08.enlarged(exact, kvlab.Cache(exact), 4).used == 0


# --- the gauge ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tiny: Decoder) -> l08_gauge.Text:
    return l08_gauge.Text(tiny, "The cat", new=30)


def test_the_gauge_reads_a_real_cache(text: l08_gauge.Text, tiny: Decoder) -> None:
    whole = kvlab.generate(tiny, "The cat", None, 30, stop_tokens=[], progress=False).ids
    assert text.prompt == 7 and text.tokens[7:] == [tiny.tokenizer.token(i) for i in whole]
    c = tiny.config
    token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    found = l08_gauge.read(text, 10, 16, warn=4)
    assert (found.used, found.remaining, found.state) == (10, 6, "fine")
    assert (found.stored, found.allocated) == (10 * token, 16 * token)
    assert l08_gauge.read(text, 12, 16, warn=4).state == "warn"
    full = l08_gauge.read(text, 16, 16, warn=0)
    assert (full.state, full.remaining) == ("warn", 0) and full.says.startswith("full")
    over = l08_gauge.read(text, 19, 16, warn=4)
    assert (over.used, over.state) == (16, "refused") and "3 more token(s) after 16 need 19" in over.says


def test_the_gauge_moves(text: l08_gauge.Text) -> None:
    widget = l08_gauge.gauge(text, tokens=10, capacity=16, warn=4)
    html = widget.view.html
    assert html.value.count('title="slot') == 16 and "6 slots left" in html.value
    widget.tokens.value = 14
    assert "only 2 slots left" in html.value
    widget.warn.value = 1
    assert "only" not in html.value
    widget.tokens.value = 20
    assert "CacheError" in html.value and html.value.count("dashed") == 4
    widget.capacity.value = 24
    assert "CacheError" not in html.value and "= 4 of 24" in html.value
    widget.tokens.value = 0
    assert "0% in use" in html.value


def test_the_gauge_has_a_picture(text: l08_gauge.Text) -> None:
    data, _ = l08_gauge.gauge(text, 10, 16, 4)._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Gauge")
    (ax,) = l08_gauge.gauge_figure(text, 19, 16, 4).axes
    assert len(ax.patches) == 19 and "CacheError" in ax.get_title(loc="left")


# --- transformers ---------------------------------------------------------------------------------------


def test_a_full_static_cache_of_transformers_counts_on_and_reset_recovers(tiny: Decoder) -> None:
    ids = tiny.tokenizer.encode(TEXT)
    hf = l08_peer.peer(tiny)
    assert isinstance(hf, l08_peer.Peer)
    cache = hf.cache(8)
    assert hf.fill(ids[:11], cache) == ["IndexError × 3"]
    assert int(cache.get_seq_length()) == 11
    cache.reset()
    assert l08.worst(hf.logits(ids[:5], cache), tiny(batch(ids[:5]))[0, -1]) < 1e-4
    used = hf.logits(ids[5:7], cache)
    assert l08.worst(used, tiny(batch(ids[:7]))[0, -1]) < 1e-4, "without reset: the text before goes on"


def test_a_capacity_below_the_window_becomes_the_window(exact: Decoder) -> None:
    ids = exact.tokenizer.encode(TEXT)
    hf = l08_peer.peer(exact, window=64)
    assert isinstance(hf, l08_peer.Peer)
    errors = l08_peer.errors_by_position(hf, exact, ids, capacity=9)
    assert max(errors[:9]) < 1e-4 < 0.01 < errors[9]
    assert exact.config.sliding_window is None, "the lesson's own model is as it was"


def test_without_transformers_the_lesson_says_what_to_install(
    tiny: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(l08_peer, "find_spec", lambda name: None)
    missing = l08_peer.peer(tiny)
    assert not missing and "pip install" in repr(missing)


@pytest.mark.weights
def test_what_the_lesson_says_of_the_leak_and_the_trap(smollm2: Decoder) -> None:
    tok = smollm2.tokenizer
    note = tok.encode("Anna's password is tulip. Anna lives in Oslo.")
    ask = tok.encode("\nAnna's password is")
    cache = kvlab.Cache(smollm2, store="static", capacity=64)
    smollm2(batch(note), cache)
    assert tok.decode(l08.greedy(smollm2, cache, ask, 3)) == " tulip."
    text = tok.encode("The cat is on the mat. The dog is on the sofa. The cat is on the mat.")
    errors = l08_peer.errors_by_position(l08_peer.peer(smollm2, window=64), smollm2, text, 16)
    assert max(errors[:16]) < 1e-2 and round(errors[16]) == 7
