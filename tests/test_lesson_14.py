"""Lesson 14: zeros, bytes, streams, damage and twins; the dial; and what the prose says of its records."""

from __future__ import annotations

import pytest
import torch
from said import prose, quality_run, times_said

import kvlab
from kvlab import CSR, Chain, ErrorBounded, Huffman, Mustafar, Quantize, Rans
from kvlab.codecs import Atoms
from kvlab.codecs.dictionary import learn
from kvlab.lesson import chart, l14, l14_dial, l14_figures
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.model import Decoder

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def found() -> l14.Seen:
    """Random entries in the shape of a small model's."""
    draw = torch.Generator().manual_seed(0)
    return l14.Seen(*(torch.randn(2, 3, 48, 64, generator=draw) for _ in range(3)))


# --- bytes ---


def test_bytes_of_a_vector_are_what_the_codecs_pack(found: l14.Seen) -> None:
    dial = l14_dial.Dial(found)
    for kept in (1, 5, 16, 32, 64):
        counted = l14.vector_bytes(kept)
        assert dial.read(kept, "bitmap", "keys").total == counted["bitmap"]
        assert dial.read(kept, "CSR", "keys").total == counted["CSR"]
    packed = Quantize(4, "token", 32).encode(found.keys)
    assert (
        sum(p.numel() * p.element_size() for p in packed.values()) / (2 * 3 * 48)
        == l14.vector_bytes(64)["int4"]
    )


def test_where_formats_break_even() -> None:
    assert [l14.break_even("bitmap", other) for other in ("all", "int4")] == [60, 16]
    assert [l14.break_even("CSR", other) for other in ("all", "int4", "bitmap")] == [42, 13, 8]


def test_zeros_are_counted(found: l14.Seen) -> None:
    assert found.numbers == 2 * 2 * 3 * 48 * 64 and found.zeros() == 0
    some = l14.Seen(found.plain, found.keys.clone(), found.values)
    some.keys[0, 0, :2] = 0
    assert some.zeros() == 128


# --- the dial ---


def test_the_dial_reads_the_codecs(found: l14.Seen) -> None:
    dial = l14_dial.Dial(found)
    half = dial.read(32, "bitmap", "values")
    assert (half.values, half.index, half.scales) == (64, 8, 0)
    assert half.error == pytest.approx(l14.relative_error(Mustafar(0.5), found.values))
    assert (half.back == 0).sum() == 32 * l14_dial.SHOWN
    csr = dial.read(5, "CSR", "keys")
    assert (csr.values, csr.index) == (10, 5) and csr.error == pytest.approx(
        l14.relative_error(CSR(5 / 64), found.keys)
    )
    four = dial.read(32, "bitmap, 4 bits", "keys")
    assert (four.values, four.index, four.scales) == (16, 8, 4) and four.error > dial.read(
        32, "bitmap", "keys"
    ).error


def test_the_dial_moves(found: l14.Seen) -> None:
    dial = l14_dial.Dial(found)
    box = l14_dial.DialBox(dial)
    shown = {box.view.html.value}
    box.kept.value = 10
    shown.add(box.view.html.value)
    box.format.value = "CSR"
    shown.add(box.view.html.value)
    box.stream.value = "values"
    shown.add(box.view.html.value)
    box.format.value = "bitmap, 4 bits"
    shown.add(box.view.html.value)
    assert len(shown) == 5 and not any("Error" in one for one in shown)
    box.kept.value = box.kept.min
    assert "Error" not in box.view.html.value and box.kept.step == 2, "two codes of 4 bits fill a byte"
    data, _ = box._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Pruning dial")


def test_the_dials_figure_shows_its_numbers(found: l14.Seen) -> None:
    dial = l14_dial.Dial(found)
    figure = l14_dial.dial_figure(dial, 32, "bitmap", "keys")
    before, after, ax = figure.axes
    assert [p.get_width() for p in ax.patches[:3]] == [64, 8, 0] and ax.texts[-1].get_text() == "64 + 8 = 72"
    l14_dial.redraw(figure, dial, 16, "CSR", "values")
    assert [p.get_width() for p in ax.patches[:3]] == [32, 16, 0] and ax.texts[
        -1
    ].get_text() == "32 + 16 = 48"
    assert int(torch.tensor(after.images[0].get_array().mask).sum()) == l14_dial.SHOWN * 48
    assert before.get_title(loc="left") == "values, layer 1" and ax.get_yticklabels()[0].get_text() == "CSR"


# --- figures ---


def test_figures_plot_what_they_are_given(found: l14.Seen) -> None:
    (ax,) = l14_figures.bytes_figure(64).axes
    assert ax.lines[0].get_ydata()[31] == 72 and ax.lines[1].get_ydata()[31] == 96
    one = l14.alphabet(Quantize(4, "token", 32), found.keys[:1, :1], 16)
    axes = l14_figures.alphabet_figure({"a": one, "b": one}).axes
    assert [p.get_height() for p in axes[0].patches] == pytest.approx(one.share[one.counts > 0].tolist())
    rows = [l14.Coded("x", 4, 3.2, 3.25, 3.3, 40), l14.Coded("y", 8, 7.9, 7.95, 8.1, 40)]
    (ax,) = l14_figures.coded_figure(rows, live=(0, 3.4)).axes
    assert [p.get_width() for p in ax.patches] == [4, 8, 3.3, 8.1]
    assert float(ax.lines[-1].get_xdata()[0]) == 3.4
    judged = chart.points(quality_run())
    _, needles, _ = l14_figures.quality_figure(judged, ("mustafar-50", 0.02)).axes
    assert needles.lines[0].get_ydata().tolist() == [judged[f"mustafar-{n}"].right for n in (70, 50, 30)]


def test_an_alphabet_knows_its_bits(found: l14.Seen) -> None:
    one = l14.alphabet(ErrorBounded(0.05, "token"), found.keys[:1, :1], 16)
    assert one.counts.sum() == 48 * 64 and (one.counts[11:] == 0).all()
    assert one.entropy <= one.mean < one.entropy + 1


# --- one wrong bit ---


def test_a_wrong_bit_stays_in_its_stream(found: l14.Seen) -> None:
    codes = Quantize(4, "token", 32).encode(found.keys[:1])["code"]
    for coder in (Huffman(4, 16), Rans(4, 16)):
        shares = l14.damage(coder, coder.encode(codes), flips=20)
        assert len(shares) >= 20 and max(shares) > 0.3, "some bits throw everything after them out of step"


# --- what the lesson says ---


def test_what_the_lesson_says_of_coding() -> None:
    run = recorded("entropy-cpu")
    assert isinstance(run, Recorded) and not run.report.commit.endswith("dirty")
    assert all(row["exact"] for row in run.rows) and run.report.parameters["tokens"] == 1024
    keys = {r.stage: r for r in l14.coded(run)}
    values = {r.stage: r for r in l14.coded(run, stream="values")}
    kivi = "min/max int4, KIVI's axes"
    assert round(keys[kivi].total, 2) == 3.95 and round(1 - keys[kivi].total / 4, 2) == 0.01
    assert round(1 - values[kivi].total / 4, 2) == 0.03
    assert round(1 - keys["min/max int4, by token"].total / 4, 2) == 0.07
    assert (
        round(keys["error-bounded 5 %"].total, 2) == 3.29
        and round(keys["error-bounded 10 %"].total, 2) == 2.36
    )
    assert round(2 * keys["fp16, high and low bytes apart"].total, 1) == 14.0
    assert round(2 * keys["fp16, bytes as they come"].total, 1) == 15.0
    for row in run.rows:
        if row["tables"] == "own":
            assert row["stream_bits"] < row["entropy_bits"] + 0.08, "both come within a few hundredths"
    for stage in keys:
        (rans,) = run.select(stage=stage, coder="rans", tables="own", stream="keys")
        assert rans["stream_bits"] <= keys[stage].stream + 0.005
    gain = {
        c: run.select(stage="min/max int8, by token", coder=c, tables="own", stream="keys")[0]
        for c in ("huffman", "rans")
    }
    huffman, rans = gain["huffman"], gain["rans"]
    assert 0.2 < huffman["table_bits"] / (8 - huffman["stream_bits"]) < 0.34
    assert rans["total_bits"] > 8, "its table eats all that it gains"
    assert all(20 < r.times < 70 for r in keys.values() if r.plain == 4)


@pytest.mark.parametrize(
    ("worse", "better", "said", "beyond"),
    [
        ("mustafar-50", "kivi-4", "8.7 times the KL of KIVI's 4 bits (6.6 … 11)", True),
        ("mustafar-30", "kivi-2", "1.0 times, 0.7 … 1.3", False),
        ("kivi-2", "mustafar-50-int4", "4.5 times the KL (3.0 … 6.6)", True),
        ("mustafar-50-int4", "kivi-3", "2.5 times their KL (1.7 … 3.6)", True),
        ("lexico-8", "kivi-2", "0.5 times KIVI's (0.3 … 1.1", False),
        ("lexico-16", "kivi-3", "1.0 times, 0.6 … 1.7", False),
        ("bounded-5", "bounded-5-huffman", "1.27 times as large at 5 % (1.03 … 1.55)", True),
        ("bounded-2", "bounded-2-huffman", "1.15 times, 0.97 … 1.36", False),
        ("bounded-5", "kivi-4", "1.9 times their KL (1.3 … 2.8)", True),
        ("bounded-10", "bounded-5", "5.7 times the KL of 5 % (3.8 … 8.6)", True),
    ],
)
def test_prose_says_how_many_times_the_kl(worse: str, better: str, said: str, beyond: bool) -> None:
    assert said in prose("14")
    times_said(worse, better, said.replace("KIVI's 4 bits", "KIVI").replace(" 5 %", ""), beyond)


def test_what_the_lesson_says_of_bytes_and_needles() -> None:
    judged = chart.points(quality_run())
    stored = {name: round(p.stored) for name, p in judged.items()}
    names = ("mustafar-50", "mustafar-30", "mustafar-50-int4", "kivi-4", "kivi-3", "kivi-2")
    assert [stored[name] for name in names] == [13590, 9202, 6165, 8190, 6840, 5490]
    assert (stored["lexico-8"], stored["lexico-16"]) == (7507, 11523)
    names = ("mustafar-30", "kivi-2", "mustafar-50-int4", "lexico-8", "lexico-16")
    assert [judged[name].right for name in names] == [3, 2, 14, 1, 11]


@pytest.mark.parametrize(
    ("method", "levels", "bits", "coded", "stored"),
    [("bounded-2", 26, 8, (12240, 7373), (13295, 11290)), ("bounded-5", 11, 4, (6480, 5375), (8097, 9791))],
)
def test_what_the_lesson_says_of_streams_in_the_whole_cache(
    method: str, levels: int, bits: int, coded: tuple[int, int], stored: tuple[int, int]
) -> None:
    run = quality_run()
    judged, names = chart.points(run), (method, f"{method}-huffman")
    bound = ErrorBounded(int(method.partition("-")[2]) / 100)
    assert (bound.steps + 1, bound.bits) == (levels, bits)
    exact = []
    for name, size in zip(names, coded, strict=True):
        row = chart.row(run, name)
        share = row["bytes"]["uncoded"] / (2 * l14.PLAIN)  # recorded in float32
        exact.append(share * row["source"]["settings"]["tokens"])
        assert round((row["bytes"]["stored"] - row["bytes"]["uncoded"]) / (1 - share)) == size
    assert exact == [50, 128], "tokens that wait for their block, and the sinks"
    assert tuple(round(judged[name].stored) for name in names) == stored
    assert [judged[name].right for name in names] == [14, 14]
    said = prose("14")
    assert all(f"{n:,}" in said for n in (*coded, *stored)) and f"{levels} levels" in said
    change = round(100 * (judged[names[1]].stored / judged[names[0]].stored - 1))
    assert f"{abs(change)} % {'less' if change < 0 else 'more'}" in said


def test_an_error_bound_of_ten_percent_takes_the_bytes_of_five() -> None:
    judged = chart.points(quality_run())
    assert judged["bounded-10"].stored == judged["bounded-5"].stored
    assert ErrorBounded(0.1).bits == ErrorBounded(0.05).bits == 4


@pytest.mark.weights
def test_what_the_lesson_measures(smollm2: Decoder) -> None:
    known, judge = l14.texts(smollm2)
    found = l14.seen(smollm2, judge)
    assert (len(known), len(judge)) == (404, 260) and found.zeros() == 0
    four = Quantize(4, "token", 32)
    for x, ratio in ((found.keys, 3), (found.values, 5)):
        quarter = l14.relative_error(Mustafar(16 / 64), x)
        assert quarter > ratio * l14.relative_error(four, x), (
            "at equal bytes dropping errs several times as much"
        )
    twins = l14.duplicates(found)
    assert twins["keys before rotary"] > 0.9 and 0.2 < twins["keys before rotary, centred"] < 0.35
    other = l14.seen(smollm2, known)
    keys = Atoms(learn(other.plain[12].flatten(0, 1), 512, 8, 2), 8)
    values = Atoms(learn(other.values[12].flatten(0, 1), 512, 8, 2), 8)
    assert l14.relative_error(keys, found.plain[12:13]) < 1.1 * l14.relative_error(
        Mustafar(0.5), found.keys[12:13]
    )
    assert l14.relative_error(values, found.values[12:13]) > 1.4 * l14.relative_error(
        Mustafar(0.5), found.values[12:13]
    )
    codes = Quantize(4, "channel", 32).encode(found.keys[12:13])["code"]
    medians = {}
    for kind in (Huffman, Rans):
        coder = kind(4, 4)
        shares = torch.tensor(l14.damage(coder, coder.encode(codes)))
        medians[kind] = float(shares.median())
        assert shares.max() > 0.5
    assert medians[Huffman] < 0.005 and medians[Rans] > 0.33


@pytest.mark.weights
def test_streams_in_a_real_cache_change_nothing(smollm2: Decoder) -> None:
    _, judge = l14.texts(smollm2)
    plain = (Quantize(4, "channel", 32, sink=4), Quantize(4, "token", 32, sink=4))
    coded = (Chain(plain[0], Huffman(4, 4)), Chain(plain[1], Huffman(4, 128)))
    caches = [kvlab.Cache(smollm2, codec=codec) for codec in (plain, coded)]
    for cache in caches:
        smollm2(torch.tensor([judge]), cache, last_only=True)
    assert torch.equal(*(smollm2(torch.tensor([judge[-1:]]), cache) for cache in caches))
    assert 0.95 < caches[1].nbytes / caches[0].nbytes < 1


def test_what_is_said_of_copying() -> None:
    judged = chart.points(quality_run())
    names = ("full", "kivi-4", "mustafar-50", "mustafar-50-int4")
    said = [f"{judged[name].copied:.2f}"[1:] for name in names]
    said += [str(judged[name].right) for name in names[2:]]
    assert (
        "the full cache copies {} and KIVI's 4 bits {}; half of the numbers copy {}, with 4 bits on top {}, "
        "though they find {} and {} of the needles".format(*said)
        in prose("14")
    )
