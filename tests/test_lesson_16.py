"""Lesson 16: who stays is what a cache keeps, the strip says so, and the record bears what is claimed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.lesson import l16, l16_figures, l16_strip
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.measure.quality_stats import times
from kvlab.measure.report import read_report
from kvlab.model import Decoder
from kvlab.stores import Step

pytestmark = pytest.mark.usefixtures("no_gradients")
SHORT = "The pass key is 71432. Boats come in, 58206 of them, and the market is full."


@pytest.fixture(scope="module")
def watched(tiny: Decoder) -> l16.Watched:
    return l16.Watched(tiny, SHORT)


# --- who stays ------------------------------------------------------------------------------------------


def test_what_the_lesson_shows_is_what_a_cache_keeps(tiny: Decoder, watched: l16.Watched) -> None:
    for name, policy in l16.policies(24, watched.layers).items():
        cache = kvlab.Cache(tiny, eviction=policy)
        tiny(torch.tensor([watched.ids]), cache)
        for layer in range(watched.layers):
            shown = watched.kept(policy, layer)
            for head, slots in enumerate(cache.layers[layer].ledger[0].expand(len(shown), -1)):
                assert slots[slots >= 0].tolist() == shown[head].nonzero().flatten().tolist(), (name, layer)


def test_with_room_for_all_everybody_stays(watched: l16.Watched) -> None:
    for policy in l16.policies(len(watched.ids), watched.layers).values():
        assert bool(watched.kept(policy, 0).all())
        assert watched.needle_share(policy) == 1.0


def test_the_needles_are_found_in_the_tokens(tiny: Decoder, watched: l16.Watched) -> None:
    assert [tiny.tokenizer.decode(watched.ids[a:b]).strip() for a, b in watched.needles] == list(l16.NEEDLES)


def test_mass_is_what_the_newest_queries_paid(watched: l16.Watched) -> None:
    heads = watched.attention[0].shape[0]
    group = watched.mass(0, len(watched.ids)).sum().item() / len(watched.ids)
    assert watched.mass(0, 3).shape == (1, heads, len(watched.ids))
    assert group == pytest.approx(watched.mass(0, 1).sum().item(), rel=1e-4)  # each query gives the same


# --- the strip ------------------------------------------------------------------------------------------


def test_the_strip_follows_its_controls(watched: l16.Watched) -> None:
    shown = l16_strip.strip(watched)
    policy, layer, head, budget, view = shown.children
    before = view.html.value
    assert before.count("<span") == len(watched.ids)
    assert before.count("outline:") == sum(b - a for a, b in watched.needles)
    for control, value in ((policy, "TOVA"), (budget, "50 %"), (head, "0"), (layer, 0), (policy, "Window")):
        control.value = value
        assert "failed" not in view.html.value
    struck = view.html.value.count("line-through")
    assert struck == len(watched.ids) - int(0.5 * len(watched.ids))
    budget.value = "100 %"
    assert "line-through" not in view.html.value
    assert view.html.value != before


def test_the_strip_counts_what_is_left_of_the_needles(watched: l16.Watched) -> None:
    heads = watched.attention[0].shape[0]
    kept = torch.zeros(heads, len(watched.ids), dtype=torch.bool)
    start, stop = watched.needles[0]
    kept[0, start:stop] = True
    html = l16_strip.strip_html(watched, kept)
    boxed = sum(b - a for a, b in watched.needles)
    assert f"{boxed} tokens, {stop - start} of {boxed * heads} entries" in re.sub(r"<[^>]+>", "", html)


def test_figures_show_the_numbers(watched: l16.Watched, tmp_path: Path) -> None:
    (ax,) = l16_strip.who_stays(watched, layer=0, share=0.5).axes
    rows = l16.policies(max(16, len(watched.ids) // 2), watched.layers)
    image = torch.from_numpy(ax.images[0].get_array().data)
    for row, policy in zip(image, rows.values(), strict=True):
        assert torch.allclose(row, watched.kept(policy, 0).float().mean(0))
    (ax,) = l16_figures.received(watched).axes
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(100, rel=1e-3)
    found = l16.points(record(tmp_path))
    left, right = l16_figures.budget_curves(found, ("H2O", 25, 0.3)).axes
    assert [line.get_ydata().tolist() for line in right.lines[:1]] == [[3, 5]]
    assert any(list(line.get_ydata()) == [0.3] for line in left.lines)
    (ax,) = l16_figures.hidden_loss(found).axes
    assert ax.lines[0].get_ydata().tolist() == [5]


def row(method: str, kl: list[float], right: int, aware: int | None = None) -> dict:
    hits = [1] * right + [0] * (8 - right)
    found = {"method": method, "kl": kl, "needles": {"256": {"key": hits}}, "bytes": {"stored": 100.0}}
    if aware is not None:
        found["needles_aware"] = {"256": {"key": [1] * aware + [0] * (8 - aware)}}
    return found


def record(folder: Path) -> Recorded:
    rows = [row("full", [0.0] * 5, 8, 8), row("h2o-25", [0.2, 0.3, 0.1, 0.2, 0.2], 3, 6),
            row("h2o-50", [0.02, 0.03, 0.01, 0.02, 0.02], 5)]  # fmt: skip
    data = {
        "schema": 1, "bench": "quality", "device": "a processor", "machine": {},
        "date": "2026-01-01T00:00:00", "versions": {"torch": "2.13"}, "commit": "abc", "command": "x",
        "parameters": {}, "rows": rows,
    }  # fmt: skip
    (folder / "q.json").write_text(json.dumps(data), encoding="utf-8")
    return Recorded("q", read_report(folder / "q.json"))


def test_points_are_read_from_a_record(tmp_path: Path) -> None:
    found = l16.points(record(tmp_path))
    point = l16.at(found, "H2O", 25)
    assert (point.right, point.right_aware, point.asked) == (3, 6, 8)
    assert point.interval.mean == pytest.approx(0.2) and point.found.low < 3 / 8 < point.found.high
    with pytest.raises(LookupError, match="not recorded"):
        l16.at(found, "TOVA", 25)


# --- what the lesson shows with a real cache ------------------------------------------------------------


def test_the_wrong_positions_are_those_of_the_slots(tiny: Decoder) -> None:
    """Until something is evicted both policies are the same; afterwards only the angles differ."""
    text = torch.randint(0, 200, (1, 60), generator=torch.Generator().manual_seed(1))
    right, wrong = (kvlab.Cache(tiny, eviction=p(24, 8)) for p in (kvlab.SnapKV, l16.LengthForPosition))
    first = [tiny(text[:, :40], cache) for cache in (right, wrong)]
    assert torch.allclose(*first, atol=1e-4)
    assert torch.equal(right.layers[0].ledger, wrong.layers[0].ledger)
    policy = l16.LengthForPosition(24, 8)
    held = torch.cat(
        (right.layers[0].ledger, torch.tensor([40, 41]).expand(1, right.layers[0].ledger.shape[1], 2)), -1
    )
    step = Step(text[:, :2], torch.tensor([[40, 41]]), torch.arange(2), held, in_order=False)
    queries, keys = policy.rope(held, step)
    assert queries[0, 0].tolist() == [24, 25]
    assert keys[0, 0, :24].tolist() == right.layers[0].ledger[0, 0].tolist()


def test_equal_keys_merge_exactly_with_the_count_and_not_without() -> None:
    draw = torch.Generator().manual_seed(0)
    key, query = torch.randn(2, 4, generator=draw)
    values = torch.randn(3, 4, generator=draw)
    full = l16.weigh(key.expand(3, -1), values, query, torch.zeros(3))
    assert torch.allclose(full, values.mean(0), atol=1e-6)


# --- what the lesson says of its records ----------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> list[l16.Point]:
    run = recorded("quality-eviction")
    assert isinstance(run, Recorded)
    return l16.points(run)


def test_the_full_cache_is_exact_and_finds_twelve(found: list[l16.Point]) -> None:
    full = l16.at(found, "full cache", 100)
    assert max(full.kl) < 1e-8 and all(len(p.kl) >= 5 for p in found)
    assert (full.right, full.right_aware, full.asked) == (12, 12, 16)


def test_kl_does_not_order_policies_by_what_they_find(found: list[l16.Point]) -> None:
    quarter = [p for p in found if p.budget == 25 and not p.name.startswith("merged")]
    least = min(quarter, key=lambda p: p.interval.mean)
    most = max(quarter, key=lambda p: p.interval.mean)
    assert (least.name, least.right) == ("H2O", 0)
    assert (most.name, most.right) == ("window", 4)
    full = l16.at(found, "full cache", 100)
    for p in found:
        if p is not full:
            assert p.right <= 7 and p.found.high < 0.75, p  # nobody comes near twelve of sixteen


def test_four_sinks_help_on_every_text(found: list[l16.Point]) -> None:
    window, sinks = l16.at(found, "window", 25), l16.at(found, "StreamingLLM", 25)
    assert all(w > s for w, s in zip(window.kl, sinks.kl, strict=True))
    assert times(window.kl, sinks.kl).low > 1


def test_on_real_keys_neither_the_count_nor_merging_makes_a_difference_at_a_quarter(
    found: list[l16.Point],
) -> None:
    def ratio(worse: str, better: str):
        return times(l16.at(found, worse, 25).kl, l16.at(found, better, 25).kl)

    count = ratio("merged, no log(count)", "merged, neighbours")
    assert count.low < 1 < count.high and 0.9 < count.low and count.high < 1.1
    random = ratio("merged, neighbours", "random")
    assert random.low < 1 < random.high


def test_the_question_in_the_prompt_helps_where_the_pool_takes_in_the_answer(found: list[l16.Point]) -> None:
    usual, wide = l16.at(found, "SnapKV", 50), l16.at(found, "SnapKV, pooled 13", 50)
    assert usual.right_aware is not None and usual.right_aware <= usual.right == 3
    assert (wide.right, wide.right_aware) == (3, 12)


def test_at_512_tokens_a_small_kl_hides_the_loss() -> None:
    run = recorded("quality-eviction-512")
    assert isinstance(run, Recorded)
    full, snap = (l16.point(run.select(method=name)[0]) for name in ("full", "snapkv-25"))
    assert round(snap.interval.mean, 2) == 0.09 and len(snap.kl) == 5
    assert (full.right, snap.right, snap.asked) == (14, 2, 16)
    agree = run.select(method="snapkv-25")[0]["agree"]
    assert 0.8 < sum(agree) / 5 < 0.9  # of ten next words eight or nine
    assert snap.found.high < full.found.low


@pytest.mark.weights
def test_what_the_notebook_measures_as_it_runs(found: list[l16.Point]) -> None:
    """With a margin on what it prints as True."""
    lm = kvlab.load("smollm2-135m", device="cpu")
    kl = l16.kl_here(lm, {
        "window": kvlab.Window(64), "streaming": kvlab.StreamingLLM(4, 60), "h2o": kvlab.H2O(64),
        "ledger": kvlab.SnapKV(64), "length": l16.LengthForPosition(64),
    })  # fmt: skip
    assert kl["window"] > 5 * kl["streaming"]
    assert kl["length"] > 1.8 * kl["ledger"]
    assert kl["h2o"] == pytest.approx(l16.at(found, "H2O", 25).kl[0], rel=0.05)
    watched = l16.Watched(lm)
    total = torch.stack([layer.sum(dim=(0, 1)) for layer in watched.attention]).sum(0)
    assert total[0] / total.sum() > 0.3 and total[0] > 7 * total[1:].max()
    kept = {name: watched.needle_share(p) for name, p in l16.policies(65, watched.layers).items()}
    assert (
        max(kept, key=lambda name: kept[name]) == "Random" and kept["Random"] > 2 * sorted(kept.values())[-2]
    )


# --- kvpress --------------------------------------------------------------------------------------------


def test_kvpress_keeps_the_same_entries() -> None:
    run = recorded("kvpress-kept")
    assert isinstance(run, Recorded)
    assert run.report.versions["kvpress"].startswith("0.5.") and len(run.report.parameters["ids"]) == 512
    overlap = {row["method"]: row["overlap"] for row in run.rows if "overlap" in row}
    assert all(len(layers) == 30 for layers in overlap.values())
    for same in ("StreamingLLM", "SnapKV", "TOVA", "AdaKV", "PyramidKV, beta 20", "PyramidKV, beta 2"):
        assert min(overlap[same]) > 0.999, same
    half = sum(overlap["H2O"]) / 30
    assert 0.4 < half < 0.6  # the sum, not the average: what the paper says
    assert min(overlap["H2O, averaged"]) > 0.99 and sum(overlap["H2O, averaged"]) / 30 > 0.999
    (turned,) = run.select(method="StreamingLLM, keys turned to their new positions")
    assert turned["largest_difference"] < 1e-3
