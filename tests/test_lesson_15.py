"""Lesson 15: bases, energies and bytes; the dial; latents and sizes; what the prose says of its record."""

from __future__ import annotations

import math
import time

import pytest
import torch
from said import prose, quality_run

import kvlab
from kvlab.codecs import LowRank
from kvlab.codecs.low_rank import principal
from kvlab.lesson import chart, l15, l15_dial, l15_figures, l15_mla
from kvlab.lesson.checking import check
from kvlab.lesson.l14 import Seen
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.model import Decoder
from kvlab.model.mla import MLA, MLACache, MLAConfig

pytestmark = pytest.mark.usefixtures("no_gradients")


def entries(seed: int, tokens: int = 60) -> Seen:
    """Random entries in the shape of a small model's: directions of unequal strength, far from zero."""
    draw = torch.Generator().manual_seed(seed)
    shape = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def one() -> torch.Tensor:
        return torch.randn(2, 3, tokens, 8, generator=draw) @ shape + 2

    return Seen(one(), one(), one())


@pytest.fixture(scope="module")
def found() -> tuple[Seen, Seen]:
    """(learned from, judged)."""
    return entries(0, 200), entries(1)


# --- bases ---


def test_a_basis_is_the_codecs(found: tuple[Seen, Seen]) -> None:
    learn, page = found
    basis = l15.Basis.of(learn.plain)
    mean, directions, _ = principal(learn.plain)
    assert torch.allclose(basis.mean.float(), mean, atol=1e-5)
    overlap = (basis.directions.float() * directions).sum(-2).abs()
    assert (overlap > 0.999).all(), "the same directions, up to their signs"
    codec = basis.codec("keys", 3, True)
    back = torch.stack([
        one.decode(one.encode(x[None]), torch.float32)[0]
        for one, x in ((codec.codecs[i, "keys"], x) for i, x in enumerate(page.plain))
    ])  # fmt: skip
    off = float((back - page.plain).norm() / page.plain.norm())
    assert off == pytest.approx(float(basis.error(page.plain)[3]), rel=1e-2)


def test_energy_and_error_are_those_of_the_svd(found: tuple[Seen, Seen]) -> None:
    x = found[1].values.double()
    centred = x - x.mean(-2, keepdim=True)
    squares = torch.linalg.svdvals(centred).square()
    own = l15.Basis.of(x)
    for rank in (0, 1, 4, 8):
        kept = float(squares[..., :rank].sum() / squares.sum())
        assert float(own.energy(x)[rank]) == pytest.approx(kept, abs=1e-9)
    assert float(own.error(x)[8]) < 1e-6
    other = l15.Basis.of(found[0].values)
    assert (other.energy(x)[1:8] < own.energy(x)[1:8]).all(), "Eckart and Young: none is better"


def test_the_mean_flatters(found: tuple[Seen, Seen]) -> None:
    x = found[1].plain + 5
    (left_in, error), (off, better) = l15.flattered(x, 3).values()
    assert left_in > l15.mean_share(x) > 0.5 and off < left_in and better <= error
    moved = l15.flattered(x + 50, 3)["centred"][0]
    assert moved == pytest.approx(off, abs=1e-6), "centred energy does not see the mean"


def test_four_bits_rotated_err_no_more_than_not(found: tuple[Seen, Seen]) -> None:
    basis = l15.Basis.of(found[0].plain)
    sixteen, four, turned = l15.in_four_bits(basis, found[1].plain, 4).values()
    assert sixteen == pytest.approx(float(basis.error(found[1].plain)[4]), rel=1e-2)
    assert sixteen < turned < 2 * sixteen and sixteen < four


# --- latents ---


def test_errors_of_joint_codes_are_those_of_projections(found: tuple[Seen, Seen]) -> None:
    learn, page = found
    numbers, keys, values = l15_mla.together(learn, page, l15_mla.WAYS[2])
    assert len(numbers) == 49 and float(keys[48]) < 1e-6 and float(values[48]) < 1e-6
    x, other = (
        torch.cat([s.transpose(1, 2).flatten(2) for s in (one.plain, one.values)], -1).double()
        for one in (page, learn)
    )
    mean = other.mean(1, keepdim=True)
    v = torch.linalg.svd(other - mean, full_matrices=False)[2][:, :10].mT
    off = x - mean - (x - mean) @ v @ v.mT
    for part, errors in ((slice(24), keys), (slice(24, 48), values)):
        assert float(errors[10]) == pytest.approx(
            float(off[..., part].norm() / x[..., part].norm()), abs=1e-9
        )
    apart = l15_mla.together(learn, page, l15_mla.WAYS[0])
    assert apart[0].tolist() == list(range(0, 49, 6)) and l15_mla.at(apart[0], apart[1], 20) == apart[1][3]
    assert torch.allclose(apart[1], l15.Basis.of(learn.plain).error(page.plain))
    heads = l15_mla.together(learn, page, l15_mla.WAYS[1])
    assert heads[0].tolist() == list(range(0, 49, 2))


def test_turn_is_rotary_and_depends_on_distance_only() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 16, generator=draw, dtype=torch.float64)
    a = (l15_mla.turn(q, 39) * l15_mla.turn(k, 30)).sum()
    assert float(a) == pytest.approx(float((l15_mla.turn(q, 9) * k).sum()), abs=1e-12)
    assert torch.equal(l15_mla.turn(q, 0), q)


def test_a_rotated_key_of_a_latent_is_not_absorbed_once() -> None:
    draw, shapes = torch.Generator().manual_seed(0), ((40, 24), (16, 24), (1, 16))
    for _ in range(5):
        c, up, q = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
        wanted = l15_mla.turn(c @ up.T, torch.arange(40)) @ l15_mla.turn(q, 39)[0]
        once = c @ (up.T @ l15_mla.turn(q, 39)[0])
        each = torch.stack([c[t] @ (up.T @ l15_mla.turn(q, 39 - t)[0]) for t in range(40)])
        assert (once - wanted).norm() > 0.5 * wanted.norm() and (each - wanted).abs().max() < 1e-12


def test_published_sizes() -> None:
    found = l15_mla.published()
    old, sixteen, six = found.values()
    assert (old, sixteen, six) == (95 * 2 * 8 * 128 * 2, 60 * 576 * 2, 60 * 576 * 6 // 8)
    assert round(100 * (1 - six / old), 1) == 93.3 and round(1 - sixteen / old, 2) == 0.82
    sizes = {name: kvlab.plan(one, tokens=1).cache_bytes for name, one in l15_mla.kinds().items()}
    mha, gqa, mla, mqa = sizes.values()
    assert mla / (gqa / 8) == 2.25 and 56.5 < mha / mla < 57.5 and mqa < mla < gqa
    cached, anew, absorbed = l15_mla.multiplications().values()
    assert (cached, absorbed) == (320, 1088) and absorbed / cached == 3.4 and anew > 100 * absorbed
    assert round(2 * 128 * absorbed / (2 * 576)) == 242, "FLOPs for each byte of a latent in 16 bits"
    assert 2 * 128 * 2 * 128 / (2 * 8 * 2 * 128) == 16, "the same for keys and values of 8 KV heads"


def test_the_layer_of_the_lesson() -> None:
    config = MLAConfig(hidden=64, heads=4, head_dim=16, latent=24, rotary=8)
    assert config.cached_numbers() == 32 and config.plain_numbers() == 160
    x, out = torch.randn(1, 12, 64, dtype=torch.float64), []
    for absorbed in (True, False):
        mla, cache = MLA(config), MLACache(growth=1.0)
        out.append(torch.cat([mla(x[:, i : i + 1], cache, absorbed) for i in range(12)], 1))
        assert cache.nbytes == 12 * 32 * 8
    assert (out[0] - out[1]).abs().max() < 1e-12


# --- figures ---


def test_figures_plot_what_they_are_given(found: tuple[Seen, Seen]) -> None:
    learn, page = found
    axes = l15_figures.energy_figure(learn, {"docs": page, "story": page}, rank=4).axes
    own, docs, _ = axes[2].lines[::2]
    assert own.get_ydata()[4] == pytest.approx(float(l15.Basis.of(page.values).energy(page.values)[4]))
    assert docs.get_ydata()[4] == pytest.approx(float(l15.Basis.of(learn.values).energy(page.values)[4]))
    ways = {way: l15_mla.together(learn, page, way) for way in l15_mla.WAYS}
    left, right = l15_figures.together_figure(ways).axes
    assert left.lines[2].get_ydata()[5] == ways[l15_mla.WAYS[2]][1][5]
    assert right.lines[0].get_ydata()[3] == ways[l15_mla.WAYS[0]][2][3]
    (ax,) = l15_figures.cloud_figure(page.plain[0, 0]).axes
    across = torch.as_tensor(ax.lines[0].get_xdata())
    assert float(across.mean()) == pytest.approx(float(page.plain[0, 0].double().mean(0).norm()), rel=1e-6)


# --- the dial, on the real model ---


@pytest.fixture(scope="module")
def real(smollm2: Decoder) -> tuple[Seen, dict[str, list[int]], l15_dial.Scene]:
    with torch.no_grad():
        taught, texts = l15.taught(smollm2), l15.texts(smollm2)
        return taught, texts, l15_dial.Scene(smollm2, taught, texts)


@pytest.mark.weights
def test_bytes_of_the_dial_are_those_of_a_real_cache(real: tuple, smollm2: Decoder) -> None:
    _, texts, scene = real
    for basis, per_token, shared in (("other text", 14400, 944640), ("own", 18090, 0)):
        s = l15_dial.Setting("docs", basis, 32, 48)
        assert l15.held(smollm2, texts["docs"], scene.codec(s)) == (per_token, shared)
        found = scene.read(s)
        assert found.keys + found.values == 14400 and found.basis_whole == 944640
        assert found.total == pytest.approx(18090)
    assert l15.float16_bytes(smollm2.config) == 23040 and l15.pays_from(smollm2.config, 32, 48) == 110
    assert 944640 / 23040 == 41, "as large as 41 tokens"
    assert l15.coordinate_bytes(smollm2.config, 48, 48) == 17280


@pytest.mark.weights
def test_the_dial_moves(real: tuple) -> None:
    _, _, scene = real
    box = l15_dial.RankDial(scene)
    shown, heard = {box.view.html.value}, {box.heard.html.value}
    assert "KL" in box.heard.html.value, "the first state is there at once"
    for control, value in ((box.rank_k, 20), (box.rank_v, 40), (box.basis, "own"), (box.page, "story"),
                           (box.basis, "after rotary")):  # fmt: skip
        control.value = value
        shown.add(box.view.html.value)
        heard.add(box.heard.html.value)
    assert len(shown) == 6 and len(heard) == 6 and not any("failed" in one for one in shown | heard)
    assert "decode" in box.heard.html.value
    box.button.click()
    assert "KL" in box.heard.html.value
    data, _ = box._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Rank dial")


@pytest.mark.weights
def test_the_dials_figure_shows_its_numbers(real: tuple) -> None:
    _, _, scene = real
    s = l15_dial.Setting("docs", "other text", 32, 48)
    figure = l15_dial.dial_figure(scene, s)
    curves, ax = figure.axes
    assert float(curves.lines[1].get_ydata()[0]) == pytest.approx(scene.read(s).energy[0])
    assert [p.get_width() for p in ax.patches[:3]] == [5760, 8640, 3690]
    l15_dial.redraw(figure, scene, l15_dial.Setting("story", "own", 8, 8))
    assert float(curves.lines[3].get_xdata()[0]) == 8 and ax.patches[0].get_width() == 1440


@pytest.mark.weights
@pytest.mark.alone
def test_a_move_of_the_dial_is_quick(real: tuple) -> None:
    box = l15_dial.RankDial(real[2])
    times = []
    for rank in range(10, 20):
        start = time.perf_counter()
        box.rank_k.value = rank
        times.append(time.perf_counter() - start)
    assert sorted(times)[5] < 0.3, "150 ms on a quiet machine"


@pytest.mark.weights
def test_full_rank_loses_nothing(real: tuple) -> None:
    _, _, scene = real
    s = l15_dial.Setting("docs", "other text", 64, 64)
    kl, text = scene.hear(s)
    assert kl < 1e-3 and text == scene.lm.tokenizer.decode(scene.pages["docs"].full[0].tolist())


# --- what the lesson says ---


@pytest.mark.weights
def test_what_the_lesson_measures(real: tuple, smollm2: Decoder) -> None:
    taught, _, scene = real
    pages = {name: page.found for name, page in scene.pages.items()}
    assert list(taught.plain.shape) == [30, 3, 2044, 64] and list(pages["docs"].plain.shape) == [
        30,
        3,
        256,
        64,
    ]
    from kvlab.codecs.calibrate import entries

    turned = torch.stack([k for k, _ in entries(smollm2, scene.pages["docs"].ids[0].tolist(), plain=False)])
    assert torch.allclose(turned[:, :, l15.SINK :].cpu(), pages["docs"].keys, atol=1e-4)
    learned = {name: l15.Basis.of(l15.kind(taught, name)) for name in l15.KINDS}

    def energy(page: str, name: str, rank: int) -> float:
        return float(learned[name].energy(l15.kind(pages[page], name))[rank])

    before, after, values = l15.KINDS
    assert 0.705 < energy("docs", before, 16) < 0.725 and 0.49 < energy("docs", after, 16) < 0.51
    assert round(energy("docs", values, 16), 2) == 0.44 and round(energy("story", values, 16), 2) == 0.25
    assert round(energy("docs", before, 32), 2) == 0.90 and round(energy("docs", values, 48), 2) == 0.87
    flat = {name: l15.flattered(l15.kind(pages["docs"], name), 16) for name in l15.KINDS}
    assert [round(flat[n]["not centred"][0], 2) for n in l15.KINDS] == [0.96, 0.90, 0.69]
    assert [round(flat[n]["centred"][0], 2) for n in l15.KINDS] == [0.81, 0.73, 0.64]
    assert round(l15.mean_share(pages["docs"].plain), 2) == 0.79
    for one in flat.values():
        assert 0.97 * one["not centred"][1] < one["centred"][1] < one["not centred"][1]
    other, own = (scene.read(l15_dial.Setting("docs", b, 32, 48)).error for b in ("other text", "own"))
    assert [round(a / b, 1) for a, b in zip(own, other, strict=True)] == [0.7, 0.6]
    pairs = list(zip(taught.plain, taught.values, strict=True))
    ranks = LowRank.learn(pairs, energy=0.9, sink=0).codecs
    keys, valued = ([ranks[i, s].rank for i in range(30)] for s in ("keys", "values"))
    assert ranks[0, "keys"].rank == min(keys) == 8 and max(keys) == 43
    assert min(valued) == 32 and 48 <= max(valued) <= 50
    for name, most in ((before, 0.65), (values, 0.6)):
        sixteen, four, spun = l15.in_four_bits(learned[name], l15.kind(pages["docs"], name), 32).values()
        assert sixteen < spun < four < 1.05 * sixteen
        assert 0.1 < (four - spun) / (four - sixteen) < most
    joint = l15_mla.together(taught, pages["docs"], l15_mla.WAYS[2])
    alone = l15_mla.together(taught, pages["docs"], l15_mla.WAYS[0])
    assert [round(l15_mla.at(joint[0], e, 192), 2) for e in joint[1:]] == [0.08, 0.19]
    assert [round(l15_mla.at(alone[0], e, 192), 2) for e in alone[1:]] == [0.15, 0.51]


def test_what_the_lesson_says_of_the_record() -> None:
    run = recorded("quality")
    assert isinstance(run, Recorded)
    points = chart.points(run)
    row = chart.row(run, "rank-k-32")["source"]["settings"]
    assert (row["offsets"], row["tokens"], row["further"]) == (5, 512, 64) and points["rank-k-32"].asked == 16

    def near(found: tuple[float, float, float], *said: float) -> bool:
        return [round(x, 1) for x in found] == list(said)

    def kl(name: str) -> float:
        return points[name].interval.mean

    assert round(kl("rank-k-32"), 4) == 0.0145 and near(
        chart.more(run, "rank-v-48", "rank-k-32"), 5.9, 4.0, 8.7
    )
    assert points["rank-k-16"].right == points["rank-v-16"].right == 0
    four = points["kivi-4-sink"]
    assert (round(four.stored), round(four.interval.mean, 4)) == (8747, 0.0024)
    low = [p for p in points.values() if p.family == "low rank" and not p.method.endswith("int4")]
    assert all(p.stored > 1.5 * four.stored and p.interval.mean > four.interval.mean for p in low)
    assert round(points["rank-k-48"].stored) == 20583
    assert chart.more(run, "rank-k-48", "kivi-4-sink").low > 1
    assert near(chart.more(run, "rank-k-32-rotated", "rank-k-32"), 6.6, 4.9, 8.9)
    assert near(chart.more(run, "rank-k-32-no-sink", "rank-k-32"), 12.8, 10.5, 15.5)
    assert near(chart.more(run, "rank-v-48-no-sink", "rank-v-48"), 8.6, 6.3, 11.7)
    for name, saved in (("rank-k-32", 45), ("rank-v-48", 22.5)):
        assert math.isclose(points[name].stored - points[f"{name}-no-sink"].stored, saved)
    own = points["rank-32-48-own"]
    assert (round(own.interval.mean, 3), own.right, round(own.stored)) == (0.010, 15, 20565)
    chained = chart.more(run, "rank-32-48-int4", "rank-32-48")
    assert chained.low < 1 < chained.high, "the same within its interval"
    sizes = [round(points[name].stored) for name in ("rank-32-48", "rank-32-48-int4", "kivi-3-sink")]
    assert sizes == [15376, 6005, 7448]
    two = chart.more(run, "kivi-2-sink", "rank-32-48-int4")
    assert near(two, 1.8, 1.3, 2.5) and round(points["kivi-2-sink"].stored) == 6148
    assert (points["kivi-2-sink"].right, points["rank-32-48-int4"].right) == (4, 14)
    assert 5.4 < chart.more(run, "rank-32-48-int4", "kivi-3-sink").mean < 6.1, "a sixth of the KL"


def test_what_is_said_of_copying() -> None:
    points = chart.points(quality_run())
    said = [f"{points[name].copied:.2f}"[1:] for name in ("full", "kivi-4-sink", "rank-32-48")]
    assert "the full cache copies {}, KIVI's 4 bits {}.".format(*said) in prose("15")
    assert f"and copy {said[2]}:" in prose("15") and points["rank-32-48"].right == points["full"].right == 14


def test_what_a_basis_lacks_is_said_in_a_sentence() -> None:
    class Empty:
        def __init__(self, other, rank):
            pass

    said = check("15.1", Empty)
    assert said.kind == "error" and said.text == "`__init__` sets no `self.directions`, [dim, rank]."
