"""Lesson 10: hybrid bytes to the byte, the ring read from memory, what passes windows, then and now."""

from __future__ import annotations

import math

import pytest
import torch
from small import CONFIG, ids, model, same

import kvlab
from kvlab.lesson import (
    Line,
    l08,
    l08_peer,
    l10,
    l10_figures,
    l10_old,
    l10_reach,
    l10_ring,
    l10_ring_view,
    l10_today,
)
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.model import Decoder
from kvlab.zoo.shapes import SHAPES

pytestmark = pytest.mark.usefixtures("no_gradients")

GEMMA = SHAPES["gemma3-270m"]
LENGTHS = [512, 1024, 2048, 4096]
TABLE = {
    "dynamic, sliding": [18_843_648, 21_989_376, 28_280_832, 40_863_744],
    "dynamic, all full": [18_874_368, 37_748_736, 75_497_472, 150_994_944],
    "static, capacity = tokens": [18_874_368, 22_020_096, 28_311_552, 40_894_464],
    "static, capacity 4,096": [40_894_464] * 4,
}
MIXED = CONFIG.replace(
    name="mixed", layer_types=("sliding", "full", "sliding"), sliding_window=5, rope_local_theta=1e4
)
TEXT = ids(1, 30)[0].tolist()


# --- bytes ----------------------------------------------------------------------------------------------


def test_the_byte_table_is_planned_and_counted() -> None:
    assert l10.byte_table(GEMMA, LENGTHS, l10.planned) == TABLE
    assert l10.byte_table(GEMMA, LENGTHS, l10.counted) == TABLE
    assert round(TABLE["dynamic, all full"][-1] / TABLE["dynamic, sliding"][-1], 1) == 3.7


def test_transformers_shows_the_same_bytes_and_holds_the_prompt() -> None:
    transformers = pytest.importorskip("transformers")
    kinds = [f"{kind}_attention" for kind in GEMMA.layer_types]
    config = transformers.Gemma3TextConfig(
        num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
        sliding_window=512, layer_types=kinds,
    )  # fmt: skip
    assert l10.byte_table(config, LENGTHS, l10_today.counted) == TABLE
    prefill, later = l10_today.after_prefill(config, 2048)
    assert prefill == (28_280_832, 75_497_472)
    assert later == (28_286_976, 28_317_696)
    ours = l10.filled(GEMMA, 2048, store="hybrid")
    assert (ours.nbytes, ours.allocated_bytes) == (28_280_832, 28_311_552)


def test_a_dynamic_ring_keeps_one_less_than_the_window() -> None:
    assert l10.kept(GEMMA, 1024) == {"sliding": (511, 512), "full": (1024, 1024)}
    assert l10.kept(GEMMA, 1024, 1024) == {"sliding": (511, 512), "full": (1024, 1024)}
    assert l10.kept(GEMMA, 300, 1024) == {"sliding": (300, 512), "full": (300, 1024)}
    steps = [kvlab.plan(GEMMA, n, bits=32, store="hybrid").bytes_per_token for n in (256, 1024)]
    assert steps == [36_864, 6_144]


def test_the_curve_bends_at_the_window_and_the_figure_plots_it() -> None:
    at = [1, 511, 512, 1024]
    found = l10.grown(GEMMA, at, "hybrid")
    assert found == [kvlab.plan(GEMMA, n, bits=32, store="hybrid").cache_bytes for n in at]
    assert found[2] - found[1] == 6_144 and found[1] == 511 * 36_864
    assert l10.grown(GEMMA, at, "hybrid", 2048) == [28_311_552] * 4
    assert round(28_311_552 / TABLE["dynamic, all full"][0], 1) == 1.5
    (ax,) = l10_figures.curve_figure(at, [Line("hybrid", found, found)], 512).axes
    assert ax.lines[0].get_ydata().tolist() == found


# --- the ring -------------------------------------------------------------------------------------------


def test_the_ring_is_read_out_of_the_memory() -> None:
    rings = l10_ring.Rings(GEMMA, 8)
    found = rings.read(7)
    assert found.memory == [0, 1, 2, 3, 4, 5, 6, -1] == found.visible
    assert (found.slot, found.free, found.overwritten) == (6, 7, -1)
    found = rings.read(8)
    assert found.memory == list(range(8)) and found.visible == [-1, *range(1, 8)]
    found = rings.read(11)
    assert found.memory == [8, 9, 10, 3, 4, 5, 6, 7] and found.visible[3] == -1
    assert (found.slot, found.free, found.overwritten) == (2, 3, 2)
    assert found.kept == [11 if kind == "full" else 7 for kind in GEMMA.layer_types]
    assert found.stored == 2048 * (15 * 7 + 3 * 11)
    text = l10_ring.says(found, [])
    assert "slot 2 = 10 mod 8 and overwrote position 2" in text and "slot 3 is free" in text


def test_the_ring_of_the_models_own_window() -> None:
    found = l10_ring.Rings(GEMMA, 512).read(1500)
    assert sorted(p for p in found.visible if p >= 0) == list(range(989, 1500))
    assert (found.slot, found.free, found.overwritten) == (1499 % 512, 1500 % 512, 1499 - 512)
    assert (found.full, found.kept[0]) == (1500, 511)


def test_the_widget_turns() -> None:
    widget = l10_ring_view.ring(GEMMA, [" a", "b"])
    html = widget.view.html
    assert "Position 10 went into slot 2" in html.value and html.value.count("<path") == 8
    assert html.value.count("line-through") == 1
    widget.token.value = 3
    assert "Position 2 went into slot 2" in html.value and "line-through" not in html.value
    widget.next.click()
    assert widget.token.value == 4 and "slot 3 = 3 mod 8" in html.value
    widget.token.value = 24
    widget.next.click()
    assert widget.token.value == 1 and "␣a" in html.value
    widget.window.value = 512
    assert widget.token.value == 515 and "overwrote position 2" in html.value
    assert html.value.count("<path") == 512 and "positions 0 to 514" in html.value
    widget.window.value = 8
    assert (widget.token.max, widget.token.value) == (24, 11)
    data, _ = widget._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Ring")


# --- what passes the window -----------------------------------------------------------------------------


def test_a_stream_is_the_models_own_forward() -> None:
    lm = model(config=MIXED)
    logits = lm.head(l10_reach.last(lm, TEXT)[None])
    assert same(logits, lm(torch.tensor([TEXT])))
    narrow = model(config=MIXED.replace(layer_types=("sliding",) * 3))  # no other rotary base here
    assert same(l10_reach.last(lm, TEXT, [1]), l10_reach.last(narrow, TEXT))
    shared = l10_reach.endings(lm, TEXT, [(), (1,)])
    assert torch.equal(shared[0], l10_reach.last(lm, TEXT))
    assert torch.equal(shared[1], l10_reach.last(lm, TEXT, [1]))


def test_each_window_reaches_one_further_and_a_full_layer_everything() -> None:
    lm = model(config=MIXED)
    other = [*TEXT[:3], (TEXT[3] + 1) % 11, *TEXT[4:]]
    moved = l10_reach.change(lm, TEXT, other)
    assert moved[:, :3].max() == 0
    assert l10_reach.frontier(moved) == [3 + 4, 29, 29]
    assert l10_reach.frontier(l10_reach.change(lm, TEXT, other, [1])) == [7, 11, 15]


def test_windowing_changes_nothing_up_to_the_window() -> None:
    lm = model(config=MIXED)
    loss, kl = l10_reach.compare(lm, TEXT, [(1,)], block=7)
    assert loss.shape == kl.shape == (2, 29) and kl[0].abs().max() < 1e-12
    assert kl[1, :5].abs().max() < 1e-12 and (kl[1, 5:] > 1e-9).all()
    every = l10_reach.compare(lm, TEXT, [(1,)], every=4)[0]
    assert same(every, loss[:, ::4])
    wanted = torch.nn.functional.cross_entropy(
        lm(torch.tensor([TEXT]))[0, :-1], torch.tensor(TEXT[1:]), reduction="none"
    )
    assert same(loss[0], wanted)


def test_a_needle_is_as_far_as_it_says(tiny: Decoder) -> None:
    asked = l10_reach.needle(tiny, 71432, 300)
    assert len(asked.ids) - asked.digit == 300
    assert asked.ids[asked.digit : asked.digit + 5] == asked.answer
    assert tiny.tokenizer.decode(asked.ids).endswith("The pass key is ")


def test_without_the_weights_the_shape_is_the_same(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    made = model(config=MIXED)

    def load(*_args, **_more):
        raise kvlab.ModelError("no network")

    monkeypatch.setattr(kvlab, "load", load)
    monkeypatch.setattr(kvlab, "random", lambda name, **_more: made if name == "gemma3-270m" else None)
    found = l10.model.__wrapped__()
    assert found is made and found.tokenizer.token(70_000) == "<70000>"
    assert found.tokenizer.token(97) == "a" and "random weights" in capsys.readouterr().out


@pytest.mark.weights
def test_what_the_lesson_measures_on_gemma(gemma3: Decoder) -> None:
    asked = l10_reach.needle(gemma3, 71432, far=700)
    with kvlab.record(gemma3) as seen:
        for _ in l10_reach.stream(gemma3, asked.ids, layers=12):
            pass
    shares = [float(l10_reach.beyond(seen, layer, 512)[:, -1].max()) for layer in (4, 5, 11)]
    assert shares[0] == 0 and shares[1] > 0.9 and shares[2] > 0.87
    looks = seen.attention[11][0, :, -1, asked.digit : asked.digit + 5].sum(-1)
    assert 0.17 < float(looks.max()) < 0.25
    figure = l10_figures.map_figure(seen, [(4, 0, "local"), (11, int(looks.argmax()), "global")], 512)
    local = figure.axes[0].images[0].get_array().filled(math.nan)
    assert local.shape == (len(asked.ids) // 4,) * 2 and math.isnan(local[-1, (700 - 520) // 4 - 1])
    assert local[-1, -1] > 0
    text = l10_reach.needle(gemma3, 71432, far=1100).ids
    other = list(text)
    other[6] = gemma3.tokenizer.encode("8", bos=False)[0]
    assert asked.digit == 6
    assert l10_reach.frontier(l10_reach.change(gemma3, text, other, layers=2)) == [517, 1028]
    full = l10_reach.full_layers(gemma3)
    assert full == (5, 11, 17)
    near, far = (l10_reach.needle(gemma3, 71432, n) for n in (300, 600))
    assert l10_reach.answers(gemma3, near, [full]) == ["71432"]
    said = l10_reach.answers(gemma3, far, [(), full])
    assert said[0] == "71432" and sum(a == b for a, b in zip(said[1], "71432", strict=False)) <= 2


# --- recorded -------------------------------------------------------------------------------------------


def clean(name: str) -> Recorded:
    run = recorded(name)
    assert isinstance(run, Recorded) and not run.report.commit.endswith("dirty")
    return run


def test_what_the_lesson_says_of_reach() -> None:
    run = clean("hybrid-reach")
    open_, closed = ([r for r in run.rows if bool(r["windowed"]) == shut] for shut in (False, True))
    assert run.report.parameters["changed"] == 6 and run.report.parameters["tokens"] == 4096
    for rows, local in ((open_, 5), (closed, 7)):
        for layer, row in enumerate(rows[:local]):
            furthest = max(i for i, x in enumerate(row["change"]) if x > 0)
            assert furthest == (6 + 511 * (layer + 1)) // 64
    assert min(open_[5]["change"]) > 1e-6
    arrives = [r["at_last"] for r in open_]
    assert round(arrives[10], 4) == 0.0001 and round(arrives[11], 3) == 0.026
    assert round(arrives[17], 2) == 0.24
    assert closed[17]["at_last"] < 1e-6 and 18 * 511 == 9_198
    assert max(closed[17]["change"][34:]) < 1e-5
    maps = l10_figures.reach_figure(run, [517, 1028]).axes
    assert maps[0].images[0].get_array().shape == (18, 64)
    assert list(maps[0].lines[1].get_xdata()) == [517, 1028]
    (ax,) = l10_figures.last_figure(run).axes
    assert ax.lines[0].get_ydata()[17] == arrives[17]


def test_what_the_lesson_says_of_quality() -> None:
    run = clean("hybrid-quality")
    plain, every, *single = run.rows
    assert (plain["windowed"], every["windowed"]) == ([], [5, 11, 17])
    assert all(max(row["kl"][:4]) == 0 for row in run.rows)
    assert round(every["kl"][-1], 2) == 0.28 and every["kl"][4:] == sorted(every["kl"][4:])
    assert [round(row["loss"][4], 2) for row in (plain, every)] == [1.42, 1.49]
    assert [round(row["loss"][-1], 2) for row in (plain, every)] == [2.06, 2.31]
    (ax,) = l10_figures.quality_figure(run).axes
    assert ax.lines[0].get_ydata().tolist() == every["kl"]
    assert all(row["kl"][-1] < every["kl"][-1] for row in single)


def test_what_the_lesson_says_of_needles() -> None:
    run = clean("hybrid-needles")
    hits = {(tuple(row["windowed"]), row["far"]): row["right"] for row in run.rows}
    assert {row["of"] for row in run.rows} == {4}
    every = (5, 11, 17)
    assert [hits[(), far] for far in (300, 600)] == [4, 4]
    assert [hits[every, far] for far in (300, 600)] == [4, 0]
    assert (hits[(11,), 600], hits[(17,), 600]) == (0, 4)


def test_what_the_lesson_says_of_transformers_4_51() -> None:
    run = clean("hybrid-cache-transformers-4.51")
    assert run.report.versions["transformers"] == "4.51.3"
    made, more, said, repaired = run.rows[:4]
    assert (made["tokens"], made["cache"], made["capacity"]) == (13, "HybridCache", 13)
    assert made["bytes"] == 13 * 36_864
    assert more["error"] == "IndexError: index 13 is out of bounds for dimension 0 with size 13"
    assert more["layers_that_moved"] == [0, 1, 2, 3, 4]
    assert (said["cache"], said["capacity"]) == ("HybridCache", 13 + 8 - 1)
    assert repaired["same_text"]
    sizes = [row["bytes"] for row in run.select(what="capacity")]
    assert sizes == TABLE["static, capacity = tokens"]
    early, late, untold = run.select(what="past the window")
    first = next(i for i, e in enumerate(early["errors"]) if e > 1e-2)
    assert early["prompt"] + first - 1 == 511, "the 512th token"
    assert early["empty_slots"] == 1 and max(late["errors"]) < 1e-3 and late["empty_slots"] == 0
    assert late["reports"] == 512 and 19 < max(untold["errors"]) < 21
    assert min(untold["errors"][1:]) > 1


def test_what_the_lesson_says_of_the_versions() -> None:
    rows = {row["transformers"]: row for row in clean("hybrid-versions").rows}
    for version in ("4.50.3", "4.51.3", "4.52.4"):
        assert rows[version]["forward_makes"] == "HybridCache"
        assert rows[version]["one_more_after_6"].startswith("IndexError")
        assert rows[version]["one_more_after_20"] == "wrong, no error"
    for version in ("4.53.3", "4.55.4"):
        assert rows[version]["forward_makes"] == "DynamicCache"
        assert rows[version]["slots_after_20"] == [20] * 6
    for version in ("4.56.2", "5.0.0", "5.23.0"):
        assert rows[version]["slots_after_20"] == [7] * 5 + [20]
    there = [version for version, row in rows.items() if row["hybrid_cache_is_there"]]
    assert there == ["4.50.3", "4.51.3", "4.52.4", "4.53.3", "4.55.4", "4.56.2"]


# --- transformers today -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_gemma() -> Decoder:
    """Six random layers of Gemma's kind, one of them full."""
    types = ("sliding",) * 5 + ("full",)
    shape = GEMMA.replace(
        name="small gemma", vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=6,
        head_dim=16, layer_types=types, query_scale=16**-0.5,
    )  # fmt: skip
    return kvlab.random(shape, device="cpu", dtype="float32")


def test_a_full_static_cache_has_changed_its_local_layers(small_gemma: Decoder) -> None:
    hf = l08_peer.peer(small_gemma)
    assert isinstance(hf, l08_peer.Peer)
    prompt = [3, 5, 7, 9, 11]
    tried = l10_today.overflow(hf, prompt, 8, 7)
    assert tried.error.startswith("IndexError") and tried.moved == [0, 1, 2, 3, 4] and len(tried.words) == 3
    whole = l10_today.overflow(hf, prompt, 8, l08.needed(5, 8))
    cache = kvlab.Cache(small_gemma, store="hybrid", capacity=l08.needed(5, 8))
    assert whole.error == "" and whole.words == l08.greedy(small_gemma, cache, prompt, 8)
    assert whole.words[:3] == tried.words and cache.remaining == 0


def test_where_no_layer_is_full_the_capacity_becomes_the_window(small_gemma: Decoder) -> None:
    narrow = l08_peer.peer(small_gemma, window=16)
    assert isinstance(narrow, l08_peer.Peer)
    text = [i % 60 for i in range(3, 15)]
    errors = l10_today.errors_of_static(narrow, text, capacity=8)
    assert max(errors[:8]) < 1e-4 < errors[8]
    sliding = GEMMA.replace(layer_types=("sliding",) * 18, sliding_window=64)
    with pytest.raises(kvlab.CacheError, match="capacity is 16"):
        l10.filled(sliding, 20, store="sliding", capacity=16)


def test_the_old_loop_still_runs_and_goes_on_today(small_gemma: Decoder) -> None:
    hf = l08_peer.peer(small_gemma)
    assert isinstance(hf, l08_peer.Peer)
    assert l10_today.made_by_generate(hf, [3, 5, 7], "hybrid") == "DynamicCache"
    found = l10_old.manual_loop(hf.model, torch.tensor([[3, 5, 7, 9, 11]]), 4)
    assert found == l08.greedy(small_gemma, kvlab.Cache(small_gemma), [3, 5, 7, 9, 11], 4)


@pytest.mark.weights
def test_what_the_lesson_says_of_the_overflow(gemma3: Decoder) -> None:
    prompt = gemma3.tokenizer.encode(l10_old.PROMPT)
    assert len(prompt) == 13
    cache = kvlab.Cache(gemma3, store="hybrid", capacity=20)
    words = l08.greedy(gemma3, cache, prompt, 8)
    said = recorded("hybrid-cache-transformers-4.51").select(what="generate")[0]["text"]
    assert gemma3.tokenizer.decode(words) == said, "the same text as then"
    text = "The cat is on the mat. The dog is on the sofa. The cat is on the mat. The dog"
    narrow = l08_peer.peer(gemma3, window=64)
    assert isinstance(narrow, l08_peer.Peer)
    errors = l10_today.errors_of_static(narrow, gemma3.tokenizer.encode(text)[:20], capacity=16)
    assert max(errors[:16]) < 1e-2 and errors[16] > 0.1 and round(max(errors)) == 7
