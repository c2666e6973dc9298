"""Lesson 02: what its figures plot, what its widget does, and the numbers that its text quotes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kvlab
from kvlab.lesson import l02, l02_clock, l02_layers, recorded
from kvlab.model import Decoder
from kvlab.model.rotary import angles, rotate
from kvlab.record import Record

TEXT = "The cat is on the mat. The capital of France is"
SENTENCE = "The cat is on the mat. The dog is on the sofa. The cat is on the mat. The dog is on the"


def tokens(lm: Decoder, *texts: str) -> torch.Tensor:
    return torch.tensor([lm.tokenizer.encode(text) for text in texts])


def maps_of(record: Record) -> torch.Tensor:
    return torch.stack(list(record.attention.values()))[:, 0]


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def clock() -> l02_clock.RotaryClock:
    draw = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 64, generator=draw)
    return l02_clock.RotaryClock(q, k, 1e5 ** -(torch.arange(32) / 32), 0.125, "a head")


# --- the clock -------------------------------------------------------------------------------------------


def test_the_clocks_scores_are_those_of_the_model() -> None:
    q, k = torch.randn(2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    frequencies = 1e5 ** -(torch.arange(32, dtype=torch.float64) / 32)
    for query, key in ((0, 0), (5, 2), (2, 5), (700, 731)):
        positions = torch.tensor([query, key])
        cos, sin = angles(positions, frequencies, torch.float64)
        turned_q, turned_k = rotate(torch.stack((q, k)), cos, sin)
        parts = l02_clock.shares(q, k, frequencies, [query - key])
        assert parts.shape == (1, 32)
        assert math.isclose(parts.sum(), float(turned_q @ turned_k), abs_tol=1e-4)


def test_shifting_both_turns_the_arrows_and_keeps_the_score(clock: l02_clock.RotaryClock) -> None:
    clock.query.value, clock.key.value, clock.pair.value = 7, 4, 3
    before = [np.copy(arrow[0].get_xydata()) for arrow in clock.clock.arrows]
    score = clock.clock.at_total.get_xydata().copy()
    assert "query at 7, key at 4, distance 3" in clock.words.value
    clock.shift.value = 100
    after = [arrow[0].get_xydata() for arrow in clock.clock.arrows]
    assert all(not np.allclose(a, b) for a, b in zip(before, after, strict=True))
    assert np.array_equal(score, clock.clock.at_total.get_xydata())
    assert "query at 107, key at 104, distance 3" in clock.words.value
    clock.shift.value = 0


def test_the_clock_marks_distance_and_pair(clock: l02_clock.RotaryClock) -> None:
    for query, key, pair in ((9, 2, 0), (2, 9, 5), (32, 0, 31)):
        clock.query.value, clock.key.value, clock.pair.value = query, key, pair
        inner = clock.clock
        at = query - key + l02_clock.FARTHEST
        assert inner.at_part.get_xydata().tolist() == [[query - key, inner.parts[at, pair]]]
        assert inner.at_total.get_xydata().tolist() == [[query - key, inner.total[at]]]
        assert np.array_equal(inner.part.get_ydata(), inner.parts[:, pair])
        shaft = inner.arrows[0][0].get_xydata()[1]
        angle = inner.phases[0][pair] + query * inner.frequencies[pair]
        assert np.allclose(shaft, [math.cos(angle), math.sin(angle)])
        assert f"pair {pair} turns" in clock.words.value
        assert inner.label.get_text() == f"pair {pair} alone"
        assert f"distance {query - key}" in inner.figure.alt


def test_a_move_of_the_clock_draws_one_new_picture(clock: l02_clock.RotaryClock) -> None:
    view = clock.children[4]
    clock.query.value = 3
    drawn, picture = view.drawn, view.html.value
    clock.query.value = 4
    assert view.drawn == drawn + 1 and view.html.value != picture
    assert "query at 4" in view.html.value  # the words for who can't see the picture


# --- positions taken away, or claimed wrongly ------------------------------------------------------------


def test_frozen_pairs_are_frozen_and_come_back(tiny: Decoder) -> None:
    before = [layer.self_attn.frequencies.clone() for layer in tiny.layers]
    ids = torch.arange(8).view(1, -1)
    exact = tiny(ids)
    with pytest.raises(ZeroDivisionError), l02.frozen(tiny, slice(2, 4)):
        for layer, old in zip(tiny.layers, before, strict=True):
            now = layer.self_attn.frequencies
            assert not now[2:4].any() and torch.equal(now[4:], old[4:]) and torch.equal(now[:2], old[:2])
        assert not torch.allclose(tiny(ids), exact)
        _ = 1 / 0
    assert torch.equal(tiny(ids), exact)


@pytest.mark.weights
def test_without_positions_only_layer_0_is_blind_to_order(smollm2: Decoder) -> None:
    ids = tokens(smollm2, "The dog bites the man because", "The man bites the dog because")
    assert ids.shape == (2, 6)
    with l02.frozen(smollm2), kvlab.record(smollm2) as bag:
        smollm2(ids)
    first, second = torch.stack(list(bag.attention.values()), dim=1)[:, :, :, -1]
    differ = (first.sort(-1).values - second.sort(-1).values).abs().amax(dim=(1, 2))
    assert differ[0] < 1e-5 and (differ[1:] > 0.01).all() and (differ[1:6] > 0.051).all()
    assert torch.allclose(first[0], second[0][:, [0, 4, 2, 3, 1, 5]], atol=1e-5)
    with kvlab.record(smollm2) as seen:
        smollm2(ids)
    first, second = seen.attention[0][:, :, -1]
    assert (first.sort(-1).values - second.sort(-1).values).abs().max() > 0.05


def test_claimed_positions_are_used_and_the_counted_ones_are_the_default(tiny: Decoder) -> None:
    ids = torch.arange(9).view(1, -1)
    right = tiny(ids)
    assert torch.equal(l02.at_positions(tiny, ids, torch.arange(9)), right)
    assert torch.allclose(l02.at_positions(tiny, ids, torch.arange(9) + 50), right, atol=1e-4)
    assert not torch.allclose(l02.at_positions(tiny, ids, torch.zeros(9)), right, atol=1e-2)


@pytest.mark.weights
def test_moving_all_positions_is_harmless_and_moving_one_is_not(smollm2: Decoder) -> None:
    together, alone = l02.shift_errors(smollm2, tokens(smollm2, TEXT + " Paris"), (1, 10, 1000))
    assert max(together) < 1e-3
    assert alone[0] == pytest.approx(2.2, abs=0.2) and alone[0] < alone[1] < alone[2]


@pytest.mark.weights
def test_off_by_one_prints_the_same_text_and_position_0_does_not(smollm2: Decoder) -> None:
    right = l02.write_at(smollm2, TEXT, lambda n, i: n + i)
    assert right == str(kvlab.generate(smollm2, TEXT, cache=kvlab.Cache(smollm2), max_new_tokens=20))
    assert l02.write_at(smollm2, TEXT, lambda n, i: n + i - 1) == right
    assert l02.write_at(smollm2, TEXT, lambda n, i: 1000 + n + i, start=1000) == right
    assert l02.write_at(smollm2, TEXT, lambda n, i: 0).startswith(" Paris is a city that is a city")


# --- which pairs matter ----------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_head_for_the_token_before_peaks_at_1_and_the_copying_one_is_flat(smollm2: Decoder) -> None:
    with kvlab.record(smollm2) as seen:
        smollm2(tokens(smollm2, SENTENCE))
    maps = maps_of(seen)
    assert divmod(int(maps.diagonal(-1, 2, 3).mean(-1).argmax()), 9) == (16, 0)
    frequencies = smollm2.layers[0].self_attn.frequencies
    cos, sin = angles(torch.arange(27), frequencies, torch.float32)
    q = rotate(seen.queries[16][0, 0], cos, -sin)
    k = rotate(seen.keys[16][0, 0], cos, -sin)
    distances = range(33)
    best = [l02_clock.shares(q[t], k[t - 1], frequencies, distances).sum(1).argmax() for t in range(1, 27)]
    assert best[1:] == [1] * 25
    curve = l02_clock.shares(q[-1], k[-2], frequencies, distances).sum(1) * smollm2.config.scale
    assert curve[1] - curve[3] > 9


@pytest.mark.weights
def test_the_recorded_run_and_its_star(smollm2: Decoder) -> None:
    run = recorded("rope_pairs")
    assert run.report.commit != "unknown" and "dirty" not in run.report.commit
    rows = {tuple(row["pairs"]): row["added"] for row in run.rows if row["pairs"]}
    assert list(rows) == [(0, 8), (8, 16), (16, 24), (24, 32)]
    star = l02.added_now(smollm2, run)
    assert star == pytest.approx(rows[0, 8][0], abs=0.02)
    figure = l02.frozen_pairs(run, star)
    plotted = [line.get_xydata() for line in figure.axes[0].lines]
    for line, values in zip(plotted, rows.values(), strict=False):
        assert np.allclose(line, np.stack((run.report.parameters["edges"][1:], values), axis=1))
    assert plotted[4].tolist() == [[64, star]]
    assert [text.get_text() for text in figure.axes[0].texts].count("measured now") == 1


# --- shared heads ----------------------------------------------------------------------------------------


@pytest.mark.weights
def test_dealt_heads_read_other_keys_and_come_back(smollm2: Decoder) -> None:
    ids = tokens(smollm2, TEXT)
    right = smollm2(ids)
    with kvlab.record(smollm2) as seen:
        smollm2(ids)
    with l02.dealt(smollm2), kvlab.record(smollm2) as other:
        wrong = smollm2(ids)
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]  # the heads that now sit on KV head 0, then 1, then 2
    assert torch.allclose(other.queries[0], seen.queries[0][:, order], atol=1e-4)
    assert (wrong - right).abs().max() > 20 and torch.equal(smollm2(ids), right)


def test_dealt_heads_are_right_where_each_head_has_its_own_keys(tiny: Decoder) -> None:
    config = tiny.config.replace(num_key_value_heads=1)
    weights = {name: p.clone() for name, p in tiny.state_dict().items()}
    for i in range(config.num_hidden_layers):
        for name in "kv":
            key = f"layers.{i}.self_attn.{name}_proj.weight"
            weights[key] = weights[key][: config.head_dim]
    lm = Decoder.from_weights(config, weights)
    ids = torch.arange(6).view(1, -1)
    exact = lm(ids)
    with l02.dealt(lm):  # one KV head: dealing changes nothing
        assert torch.allclose(lm(ids), exact, atol=1e-5)


def test_overlap_is_1_for_equal_maps_and_0_for_disjoint_ones() -> None:
    maps = torch.zeros(1, 3, 8, 8)
    maps[:, 0, :, 1] = maps[:, 1, :, 1] = maps[:, 2, :, 2] = 1
    maps[:, 1, :, 0] = 5  # the sink does not count
    assert l02.overlap(maps)[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.weights
def test_heads_of_a_group_are_somewhat_more_alike(smollm2: Decoder) -> None:
    with kvlab.record(smollm2) as seen:
        smollm2(tokens(smollm2, SENTENCE))
    overlaps = l02.overlap(maps_of(seen))
    inside, across = l02.by_group(overlaps, 3)
    assert inside.mean() == pytest.approx(0.61, abs=0.01) and across.mean() == pytest.approx(0.52, abs=0.01)
    assert (inside > across).sum() >= 26
    figure = l02.overlap_map(overlaps, 3)
    (image,) = figure.axes[0].images
    shown, off = image.get_array(), ~np.eye(9, dtype=bool)
    assert np.allclose(shown[off], overlaps.mean(0)[off]) and np.isnan(shown.filled(np.nan)[~off]).all()
    assert len(figure.axes[0].patches) == 3 and "0.61" in figure.alt


def test_by_group_takes_the_right_pairs() -> None:
    overlaps = np.zeros((1, 4, 4))
    overlaps[0, :2, :2] = overlaps[0, 2:, 2:] = 0.5
    inside, across = l02.by_group(overlaps, 2)
    assert (inside.tolist(), across.tolist()) == ([0.5], [0.0])


# --- shapes and the stream -------------------------------------------------------------------------------


@pytest.mark.weights
def test_shapes_are_those_of_the_configuration(smollm2: Decoder) -> None:
    table = l02_layers.shapes(smollm2, tokens(smollm2, TEXT))
    c, n = smollm2.config, 12
    words = {"batch": 1, "tokens": n, "hidden": c.hidden_size, "heads": 9, "kv_heads": 3, "head_dim": 64}
    words |= {"vocab": c.vocab_size, "intermediate": c.intermediate_size, "heads · head_dim": 576}
    rows = [row for row in table.rows if row[2]]
    assert len(rows) == 14
    for _, shape, here in rows:
        assert str([words[word] for word in shape.strip("[]").split(", ")]) == here
    assert "keys, rotated" in repr(table) and "*" not in repr(table)
    assert "<strong>k: keys, rotated</strong>" in table._repr_mimebundle_()["text/html"]


@pytest.mark.weights
def test_the_stream_is_the_sum_of_what_the_layers_add(smollm2: Decoder) -> None:
    stream = l02_layers.stream(smollm2, tokens(smollm2, TEXT))
    assert stream.x.shape == (31, 12, 576)
    assert torch.equal((stream.x[:-1] + stream.attention) + stream.mlp, stream.x[1:])
    assert not smollm2.layers[0]._forward_hooks and not smollm2.embed_tokens._forward_hooks
    words = [smollm2.tokenizer.decode([int(i)]) for i in smollm2.head(stream.x[:, -1]).argmax(-1)]
    assert words[0] == " is" and words[-1] == " Paris" and " Paris" not in words[:-1]
    length = stream.x.norm(dim=-1)
    ratio = length[:, 0] / length[:, 1:].median(dim=1).values
    assert ratio[11] < 1.2 and ratio[12] == pytest.approx(180, abs=5) and (ratio[12:28] > 40).all()
