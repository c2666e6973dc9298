"""Lesson 13: what rotation, codebooks, plain keys, blocks and chunks do, and what is said of the records."""

from __future__ import annotations

import pytest
import torch
from said import prose, quality_run, times_said

import kvlab
from kvlab.lesson import chart, l12, l13, l13_figures, l13_turn
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.measure.quality_stats import times as times_of
from kvlab.model import Decoder

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def real(smollm2: Decoder) -> l13.Entries:
    ids, _ = l12.prose(smollm2, 260)
    return l13.Entries.take(smollm2, ids[0].tolist())


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# --- on the real model ----------------------------------------------------------------------------------


@pytest.mark.weights
def test_rotation_helps_keys_by_token_and_a_scale_per_channel_helps_more(real: l13.Entries) -> None:
    keys, values = l13.compared(real.keys), l13.compared(real.values)
    at = {name: points[0] for name, points in keys.items()}  # four bits
    assert [round(at[n][1], 3) for n in ("by token", "rotated", "by channel")] == [0.100, 0.076, 0.038]
    assert {at[n][0] for n in ("by token", "rotated", "by channel")} == {5.0}
    assert (round(values["by token"][0][1], 3), round(values["rotated"][0][1], 3)) == (0.082, 0.078)
    for b in range(3):
        assert keys["by channel"][b][1] < 0.6 * keys["rotated"][b][1] < 0.6 * keys["by token"][b][1]


@pytest.mark.weights
def test_a_codebook_pays_at_two_bits_and_not_at_four(real: l13.Entries) -> None:
    found = l13.compared(real.keys)
    book, groups, one = (found[n] for n in ("rotated, codebook", "rotated", "rotated, one scale"))
    assert (book[2][0], groups[2][0]) == (2.25, 3.0)
    assert (round(book[2][1], 2), round(groups[2][1], 2)) == (0.33, 0.38)
    assert (book[0][0], one[0][0]) == (4.25, 4.5)
    assert (round(book[0][1], 3), round(one[0][1], 3)) == (0.094, 0.086)
    for bits, stated in ((4, 0.0095), (3, 0.0345), (2, 0.1175)):
        for x in (real.keys, real.values):
            assert 0.905 < l12.error(kvlab.TurboQuant(bits), x) ** 2 / stated < 0.975


@pytest.mark.weights
def test_rotation_evens_the_channels_out(real: l13.Entries) -> None:
    before, after = l12.loudness(real.keys).median(), l12.loudness(l13.rotated(real.keys)).median()
    assert round(float(before)) == 10 and 2.2 < float(after) < 2.6
    raw, turned = l13.coordinates(real.keys), l13.coordinates(l13.rotated(real.keys))
    tails = [float(x.pow(4).mean() / x.square().mean() ** 2) for x in (raw, turned)]  # 3 for a normal
    assert tails[0] > 10 and 2.5 < tails[1] < 3.0


@pytest.mark.weights
def test_keys_before_rotary_have_channels_that_stay_level(real: l13.Entries) -> None:
    for bits in l13.BITS:
        codec = kvlab.Quantize(bits, "channel", 32)
        ratio = l12.error(codec, real.plain) / l12.error(codec, real.keys)
        assert 0.84 < ratio < 0.9  # an eighth less
    assert torch.allclose(real.plain.norm(dim=-1), real.keys.norm(dim=-1), rtol=1e-4)


@pytest.mark.weights
def test_chunks_change_kivi_and_not_an_exact_cache(smollm2: Decoder) -> None:
    ids, _ = l12.prose(smollm2, 260)
    for codec, same in ((None, True), (kvlab.KIVI(2, 32, residual=32, sink=4), False)):
        once = l13.in_chunks(smollm2, codec, ids, 260)
        found = l13.apart(once, l13.in_chunks(smollm2, codec, ids, 32))
        assert (found.largest < 1e-2) == same
        assert (found.kl < 1e-6) if same else (0.015 < found.kl < 0.035)


def test_blocks_decode_less_and_give_the_same(tiny: Decoder) -> None:
    ids = torch.randint(0, 200, (1, 90), generator=torch.Generator().manual_seed(0))
    whole, most = l13.decoded_at_once(tiny, ids, None)
    parts, fewer = l13.decoded_at_once(tiny, ids, 16)
    assert (most, fewer) == (89, 16) and (whole - parts).abs().max() < 1e-4


# --- helpers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_widget_codes_as_the_package_does(bits: int) -> None:
    x = noise(50, 64)
    x[:, 3] *= 8
    book = l13.coded(x, True, True, bits)
    even = l13.coded(x, True, False, bits)
    turbo, uniform = kvlab.TurboQuant(bits), kvlab.Hadamard(kvlab.Quantize(bits, "token", None))
    for found, codec in ((book, turbo), (even, uniform)):
        assert found.error == pytest.approx(l12.error(codec, x[None, None]), rel=1e-3)
        assert found.bits == l12.bits_per_number(codec, x[None, None])
        assert len(found.levels) == 2**bits
    assert l13.coded(x, False, False, bits).error > even.error
    assert torch.allclose(book.seen.norm(dim=-1), torch.tensor(8.0))


def test_the_turntable_answers_every_control() -> None:
    keys, values = noise(3, 2, 40, 64), noise(3, 2, 40, 64)
    keys[..., 5] *= 9
    table = l13_turn.turntable(keys, values)
    seen = {table.view.html.value}
    for control, value in (
        (table.rotate, True), (table.levels, l13_turn.BEST), (table.bits, 4), (table.layer, 2),
        (table.head, 1), (table.stream, "values"), (table.rotate, False),
    ):  # fmt: skip
        control.value = value
        seen.add(table.view.html.value)
    assert len(seen) == 8 and all("relative error" in html for html in seen)
    assert l13_turn.turntable_figure({"keys": keys}, l13_turn.Setting("keys", 0, 0, True, 2, l13_turn.BEST))


def test_figures_plot_what_was_measured() -> None:
    keys, plain = noise(2, 1, 64, 64), noise(2, 1, 64, 64)
    keys[..., 7] += 6
    figure = l13_figures.rotation_figure(keys, l13.rotated(keys), 0, 0)
    assert figure.axes[0].images[0].get_array().shape == (64, 64)
    found = l13.compared(keys)
    axes = l13_figures.ways_figure({"keys": found, "values": l13.compared(plain)}).axes
    assert [tuple(point) for point in axes[0].lines[0].get_xydata()] == found["by token"]
    book, even = (l13.coded(keys[0, 0], True, best, 2).levels for best in (True, False))
    (ax,) = l13_figures.coordinates_figure(l13.coordinates(keys), l13.coordinates(plain), book, even).axes
    assert ax.lines[3].get_xdata().tolist() == book and ax.lines[4].get_xdata().tolist() == even
    (ax,) = l13_figures.rotary_figure(plain[0, 0, :, 3], keys[0, 0, :, 3], 3).axes
    assert ax.lines[0].get_ydata().tolist() == keys[0, 0, :, 3].tolist()


# --- the records ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["packed-cpu", "quantized-transformers"])
def test_records_come_from_a_commit(name: str) -> None:
    run = recorded(name)
    assert isinstance(run, Recorded)
    assert run.report.commit != "unknown" and "dirty" not in run.report.commit
    assert run.report.rows and not run.report.errors


def found(name: str) -> Recorded:
    run = recorded(name)
    assert isinstance(run, Recorded)
    return run


@pytest.mark.parametrize(
    ("worse", "better", "said", "beyond"),
    [
        ("token-2-sink", "hadamard-2", "1.7 times smaller (1.4 … 2.0)", True),
        ("hadamard-head-2", "hadamard-2", "1.6 times (1.4 … 1.9)", True),
        ("hadamard-2", "turbo-2", "2.8 times smaller than rotation alone (2.0 … 3.9)", True),
        ("turbo-2", "kivi-2-sink", "1.0 times, 0.8 … 1.3", False),
        ("token-3-sink", "hadamard-3", "1.5 times, 1.1 … 1.9", True),
        ("token-4-sink", "hadamard-4", "1.5 times, 1.1 … 2.1", True),
        ("turbo-3", "kivi-3-sink", "2.3 times their KL (1.6 … 3.4)", True),
        ("turbo-4", "kivi-4-sink", "2.5 times (2.2 … 2.9)", True),
        ("kivi-2-sink", "plain-kivi-2", "1.0 times as high without (0.9 … 1.2)", False),
    ],
)
def test_prose_says_how_many_times_the_kl(worse: str, better: str, said: str, beyond: bool) -> None:
    assert said in prose("13")
    times_said(worse, better, said, beyond)


def test_gemma_agrees_on_the_codebook_and_contradicts_on_kivi() -> None:
    for worse, better, said in (
        ("hadamard-2", "turbo-2", "1.6 times, 1.2 … 2.1"),
        ("turbo-2", "kivi-2-sink", "7.8 times the KL (4.5 … 13)"),
    ):
        assert said in prose("13")
        times_said(worse, better, said, beyond=True, model=chart.GEMMA)
    names = ("turbo-2", "hadamard-2", "kivi-2-sink")
    assert [sum(chart.needle_hits(quality_run(), name, chart.GEMMA)) for name in names] == [0, 0, 11]


def test_what_is_said_of_bytes_and_needles() -> None:
    judged = chart.points(quality_run())
    assert round(judged["token-2-sink"].interval.mean, 2) in (0.51, 0.52)
    assert [round(judged[name].stored) for name in ("turbo-2", "kivi-2-sink")] == [4639, 6148]
    assert [judged[name].right for name in ("turbo-2", "kivi-2-sink")] == [9, 4]
    for bits in (3, 4):
        times = chart.more(quality_run(), f"hadamard-{bits}", f"turbo-{bits}")
        assert times.low < 1 < times.high
        names = ("token-{}-sink", "hadamard-{}", "turbo-{}", "kivi-{}-sink", "plain-kivi-{}")
        assert min(judged[name.format(bits)].right for name in names) >= 11


def test_what_is_said_of_packed_attention() -> None:
    run = found("packed-cpu")
    last = {n: l13.peaks(run, "KIVI-4", n)[-1] for n in (None, 256, 1024)}
    assert {n: (tokens, round(mb, 1)) for n, (tokens, mb) in last.items()} == {
        None: (4096, 10.3), 256: (4096, 1.2), 1024: (4096, 4.4),
    }  # fmt: skip
    flat = [mb for _, mb in l13.peaks(run, "KIVI-4", 256)]
    assert max(flat) < 1.25
    for tokens, times in l13.slower(run, "KIVI-4", 256, "decode_all"):
        assert tokens < 2048 or 1.15 < times < 1.35
    for n in (None, 256, 1024):
        for tokens, times in l13.slower(run, "KIVI-4", n, "exact"):
            assert tokens < 2048 or 1.7 < times < 2.7  # "about twice"
    assert all(0.95 < times < 1.15 for _, times in l13.slower(run, "KIVI-4", 1024, "decode_all"))


def test_what_is_said_of_transformers() -> None:
    run = found("quantized-transformers")
    kl = {name: [row["kl"] for row in run.select(cache=name)] for name in ("quanto-4", "quanto-2", "KIVI-4")}
    kl["KIVI-2"] = [row["kl"] for row in run.select(cache="KIVI-2")]
    assert {len(values) for values in kl.values()} == {5}
    four, two = times_of(kl["quanto-4"], kl["KIVI-4"]), times_of(kl["quanto-2"], kl["KIVI-2"])
    assert round(four.mean, 1) == 3.6 and four.low > 2 and round(two.mean) == 7 and two.low > 5
    for name in ("quanto-4", "quanto-2"):
        assert 1.2 < l13.peer(run, name).slower < 1.3
        assert l13.peer(run, name).share > l13.peer(run, name.replace("quanto", "KIVI")).share
    for name in ("KIVI-4", "KIVI-2"):
        assert 1.55 < l13.peer(run, name).slower < 1.75
    assert "quanto-2" in l13.peer_table(run) and run.report.versions["optimum-quanto"].startswith("0.2.7")


def test_figures_of_the_records() -> None:
    judged = chart.points(quality_run())
    kl, needles = l13_figures.losses_figure(judged, ("turbo-2", 0.09)).axes
    assert [float(line.get_xdata()[0]) for line in kl.lines if line.get_marker() == "*"] == [0.09]
    dots = [float(line.get_xdata()[0]) for line in needles.lines if line.get_marker() == "o"]
    two = [judged[name.format(2)].right for name in l13_figures.METHODS.values()]
    assert dots[-len(two) :] == two
    left, right = l13_figures.packed_figure(found("packed-cpu")).axes
    assert [tuple(p) for p in left.lines[0].get_xydata()] == l13.peaks(found("packed-cpu"), "KIVI-4", None)
    assert len(right.lines) == 3


def test_what_is_said_of_copying() -> None:
    judged = chart.points(quality_run())
    rows = ("token-{}-sink", "hadamard-{}", "turbo-{}", "kivi-{}-sink", "plain-kivi-{}")
    copied = {name.format(b): f"{judged[name.format(b)].copied:.2f}"[1:] for name in rows for b in (2, 3, 4)}
    four = sorted(copied[name.format(4)] for name in rows)
    assert f"the full cache gets {judged['full'].copied:.2f} of them".replace("0.", ".") in prose("13")
    assert f"With four bits {four[0]} to {four[-1]} are copied" in prose("13")
    three = (copied["kivi-3-sink"], copied["hadamard-3"], copied["turbo-3"])
    assert "with three KIVI keeps {}, rotation {}, the codebook {}.".format(*three) in prose("13")
    two = (copied["kivi-2-sink"], copied["turbo-2"])
    assert "With two bits KIVI copies {} and the codebook {},".format(*two) in prose("13")
    assert judged["turbo-2"].right > judged["kivi-2-sink"].right, "though it finds more needles"
