"""Lesson 12: what a codec writes of real entries, the dial, and every comparison that the lesson makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab import KIVI, Quantize, cli
from kvlab.lesson import chart, exercise, l12, l12_dial, l12_figures
from kvlab.lesson.recorded import Recorded, recorded
from kvlab.measure.report import Report, read_report
from kvlab.model import Decoder

PROMPT = (
    "The history of the city of Paris begins more than two thousand years ago, when a tribe of fishermen "
    "settled on an island in the river Seine. The Romans came and built roads, baths and an arena. Later a "
    "tower of iron was built for a fair, three hundred metres high. Today the city is known for"
)

pytestmark = pytest.mark.usefixtures("no_gradients")


def batch(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids])


@pytest.fixture(scope="module")
def stand_in(tiny: Decoder) -> tuple[torch.Tensor, torch.Tensor]:
    return l12.entries(tiny, l12.prose(tiny, 64)[0])


# --- entries ----------------------------------------------------------------------------------------------


def test_entries_are_what_the_cache_holds(tiny: Decoder) -> None:
    ids, further = l12.prose(tiny, 20, 4)
    keys, values = l12.entries(tiny, ids)
    c = tiny.config
    assert keys.shape == values.shape == (c.num_hidden_layers, c.num_key_value_heads, 20, c.head_dim)
    assert further.shape == (1, 4)
    cache = kvlab.Cache(tiny)
    tiny(ids, cache)
    torch.testing.assert_close(keys[2], cache.layers[2].keys.read()[0])


def test_loudness_by_hand() -> None:
    x = torch.ones(1, 1, 3, 5)
    x[..., 2] = -8
    assert l12.loudness(x).item() == 8


def test_errors_by_hand(stand_in: tuple[torch.Tensor, torch.Tensor]) -> None:
    keys, _ = stand_in
    codec = Quantize(2, "channel", 16)
    back = codec.decode(codec.encode(keys), torch.float32)
    assert l12.error(codec, keys) == pytest.approx(float((back - keys).norm() / keys.norm()))
    each = ((back - keys).norm(dim=-1) / keys.norm(dim=-1))[:, :, 5]
    assert float(l12.token_errors(codec, keys)[5]) == pytest.approx(float(each.median()))
    flat = torch.ones(1, 1, 3, 4)
    flat[0, 0, 0] = 0.5
    assert l12.first_norm(flat) == 0.5


def test_mixed_error_is_that_of_the_head_outputs(tiny: Decoder) -> None:
    ids, _ = l12.prose(tiny, 32)
    seen = l12.Attended.take(tiny, ids)
    _, values = l12.entries(tiny, ids)
    assert seen.received().sum() == pytest.approx(1.0, abs=1e-5)
    codec = Quantize(2, group_size=16)
    back = codec.decode(codec.encode(values), torch.float32)
    off = whole = 0.0
    for layer, a in enumerate(seen.maps):
        for head in range(a.shape[0]):
            kv = head // (a.shape[0] // values.shape[1])
            off += float((a[head, 16:] @ (back - values)[layer, kv]).square().sum())
            whole += float((a[head, 16:] @ values[layer, kv]).square().sum())
    assert seen.mixed_error(codec, values) == pytest.approx((off / whole) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(("bits", "group", "wanted"), [(2, 32, 3.0), (4, 32, 5.0), (2, 8, 6.0), (3, 16, 5.0)])
def test_bits_a_number_cost_their_overhead(bits: int, group: int, wanted: float) -> None:
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert l12.bits_per_number(Quantize(bits, "channel", group), x) == wanted
    assert l12.bits_per_number(Quantize(bits, "token", group), x) == wanted


def test_written_counts_what_the_cache_counts(tiny: Decoder) -> None:
    ids, _ = l12.prose(tiny, 61)
    cache = kvlab.Cache(tiny, codec=KIVI(2, 16, residual=8, sink=4))
    tiny(ids, cache)
    layer = cache.layers[1]
    exact = kvlab.Cache(tiny)
    tiny(ids, exact)
    for stream, codec in (("keys", layer.keys.codec), ("values", layer.values.codec)):
        x = getattr(exact.layers[1], stream).read()
        found = l12.write(codec, x)
        held = getattr(layer, stream)
        assert found.nbytes == held.nbytes and set(found.parts) == {"codes", "scales", "minima", "exact"}
        torch.testing.assert_close(found.back, held.read())
    assert l12.write(None, x).parts == {"exact": 4 * x.numel()} and l12.write(None, x).bits == 32


def test_the_solution_of_12_2_counts_a_real_stream() -> None:
    count = exercise("12.2").reference
    for tokens, bits, group, residual, sink in ((200, 2, 32, 32, 4), (97, 4, 16, 8, 0), (150, 3, 8, 20, 3)):
        x = torch.randn(1, 1, tokens, 64)
        held = l12.write(Quantize(bits, "channel", group, residual, sink), x).nbytes
        assert count(tokens, 64, bits, group, residual, sink) == held


# --- through a model ----------------------------------------------------------------------------------------


def test_saying_is_greedy_decoding_and_reports_the_prompts_bytes(tiny: Decoder) -> None:
    found = l12.say(tiny, "The cat is on the mat.", None, 6)
    wanted = kvlab.generate(
        tiny, "The cat is on the mat.", kvlab.Cache(tiny), 6, stop_tokens=[], progress=False
    )
    assert found.text == wanted.text
    cache = kvlab.Cache(tiny, codec=KIVI(2, 8, residual=0))
    tiny(batch(tiny.tokenizer.encode("The cat is on the mat.")), cache)
    assert l12.say(tiny, "The cat is on the mat.", KIVI(2, 8, residual=0), 6).prompt_bytes == cache.nbytes


def test_layer_errors_begin_at_nothing_and_are_nothing_for_an_exact_cache(tiny: Decoder) -> None:
    ids, further = l12.prose(tiny, 40, 3)
    found = l12.layer_errors(tiny, ids, further, {"exact": None, "2 bits": Quantize(2, group_size=16)})
    assert max(found["exact"]) == 0
    assert found["2 bits"][0] == 0 and min(found["2 bits"][1:]) > 0.001
    assert len(found["2 bits"]) == tiny.config.num_hidden_layers + 1


# --- the dial -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tiny: Decoder) -> l12_dial.Scene:
    return l12_dial.Scene(tiny, PROMPT[:64], layer=1, head=0, new=4)


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's heads have 16 channels: groups of 32 do not divide them."""
    monkeypatch.setattr(l12_dial, "GROUPS", (8, 16))


def test_the_dial_shows_what_is_stored(scene: l12_dial.Scene, smaller: None) -> None:
    dial = l12_dial.BitDial(scene)
    assert dial.view.html.value.count("<img") == 6 and dial.view.html.value.count("data:image/png") == 6
    setting = dial.setting
    keys = scene.written(setting)["keys"]
    assert f"{keys.bits:.2f} bits a number" in dial.view.html.value
    assert f"{l12_dial.relative_error(keys, scene.streams['keys']):.3f}" in dial.view.html.value
    before = dial.view.html.value
    dial.bits.value = 8
    finer = scene.written(dial.setting)["keys"]
    assert dial.view.html.value != before and finer.bits == keys.bits + 6
    x = scene.streams["keys"]
    assert l12_dial.relative_error(finer, x) < l12_dial.relative_error(keys, x) / 10
    dial.sink.value = 4
    assert scene.written(dial.setting)["keys"].exact >= 4 and "exact" in dial.view.html.value
    for way in ("token", "channel", "tensor"):
        before = dial.view.html.value
        dial.way.value = way
        assert dial.view.html.value != before and "failed" not in dial.view.html.value
    for control, value in ((dial.group, 16), (dial.residual, 16)):
        before = dial.view.html.value
        control.value = value
        assert dial.view.html.value != before and "failed" not in dial.view.html.value


@pytest.mark.parametrize(("codec", "wanted"), [(None, 640), (KIVI(2, 16, residual=0), 80)])
def test_the_bar_is_in_the_full_caches_float32(codec: KIVI | None, wanted: int) -> None:
    x = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    stream = None if codec is None else codec.at(0, "keys")
    widths = re.findall(r"width:(\d+)px;background:#", l12_dial.bar(l12.write(stream, x), width=640))
    assert sum(map(int, widths)) == wanted


def test_the_dial_runs_the_model_when_asked(scene: l12_dial.Scene, smaller: None) -> None:
    dial = l12_dial.BitDial(scene)
    assert "KL" in dial.heard.html.value, "the first state is computed"
    dial.bits.value = 3
    assert "Press" in dial.heard.html.value and "KL" not in dial.heard.html.value
    shown: list[str] = []
    dial.heard.html.observe(lambda change: shown.append(change.new), "value")
    dial.button.click()
    assert "The model runs" in shown[0] and "KL" in shown[1]
    kl, text = scene.heard[dial.setting]
    assert f"KL {kl:.4f}" in dial.heard.html.value and kl > 0
    assert text == l12.say(scene.lm, scene.prompt, dial.setting.codecs, scene.new).text
    data, _ = dial._repr_mimebundle_()
    assert data["image/png"] and data["text/plain"].startswith("[widget] Bit dial")


# --- figures ------------------------------------------------------------------------------------------------


def test_figures_plot_what_they_are_given(stand_in: tuple[torch.Tensor, torch.Tensor]) -> None:
    keys, values = stand_in
    axes = l12_figures.loud_figure(keys, values, 1, 0).axes
    torch.testing.assert_close(torch.tensor(axes[0].images[0].get_array()), keys[1, 0].abs())
    (ax,) = l12_figures.loudness_figure(keys, values).axes
    dots = ax.collections[1].get_offsets()[:, 0]
    assert sorted(dots) == pytest.approx(sorted(l12.loudness(keys).flatten().tolist()))
    found = {"keys": {"by token": [0.1, 0.2]}, "values": {"by token": [0.3, 0.4]}}
    left, right = l12_figures.error_figure(found, (4, 2)).axes
    assert [left.lines[0].get_ydata().tolist(), right.lines[0].get_ydata().tolist()] == [
        [0.1, 0.2],
        [0.3, 0.4],
    ]
    (ax,) = l12_figures.growth_figure({"4 bits": [0, 0.1], "2 bits": [0, 0.3]}).axes
    assert ax.lines[1].get_ydata().tolist() == [0, 0.3]
    ax = l12_figures.first_token_figure(keys, values, torch.arange(64.0)).axes[2]
    assert [bar.get_height() for bar in ax.patches] == list(range(12))
    (ax,) = l12_figures.levels_figure([0.0, 1.0], [0.0, 1.0], [0, 0.5, 1]).axes
    assert len(ax.texts) >= 3


def test_the_breaking_figure_plots_the_record_with_its_intervals() -> None:
    rows = [
        {
            "model": "smollm2-135m",
            "method": pattern.format(bits),
            "kl": [0.1 / bits, 0.2 / bits, 0.4 / bits],
            "needles": {"256": {"key": [1, 0], "two": [1, 0]}},
        }
        for pattern in l12_figures.FAMILIES.values()
        for bits in (4, 3, 2)
    ]
    run = Recorded("q", Report("quality", "a processor", {}, "x", rows=rows))
    left, right = l12_figures.breaking_figure(run, star=(2, 0.15)).axes
    assert left.lines[0].get_ydata().tolist() == pytest.approx([0.2 / bits for bits in (4, 3, 2)])
    assert right.lines[0].get_ydata().tolist() == [0.5] * 3
    assert float(left.lines[-1].get_ydata()[0]) == 0.15
    bar = left.containers[0].lines[2][0].get_segments()[0]  # of four bits, by channel
    assert bar[:, 1].tolist() == pytest.approx(
        [chart.kl(run, "channel-4").low, chart.kl(run, "channel-4").high]
    )
    assert "KL 0.0500" in chart.summary(_agreeing(run), ["kivi-4"])


def _agreeing(run: Recorded) -> Recorded:
    for row in run.rows:
        row["agree"] = [0.5, 1.0]
    return run


# --- what the lesson says -----------------------------------------------------------------------------------

WORSE = [
    ("token-4", "kivi-4"),
    ("token-2", "kivi-2"),
    ("channel-4", "kivi-4"),
    ("channel-4", "channel-4-sink"),
    ("kivi-2", "kivi-2-sink"),
]
RUN = recorded("quality")


@pytest.mark.parametrize("model", [chart.SMOL, chart.GEMMA])
@pytest.mark.parametrize(("worse", "better"), WORSE)
def test_what_is_worse_is_worse_beyond_chance_on_both_models(worse: str, better: str, model: str) -> None:
    assert isinstance(RUN, Recorded)
    rows = [chart.row(RUN, name, model) for name in (worse, better)]
    assert all(len(row["kl"]) >= 5 for row in rows)
    not_of_kl = ("evaluations", "copies")
    ways = [{n: v for n, v in r["source"]["settings"].items() if n not in not_of_kl} for r in rows]
    assert ways[0] == ways[1]
    by_chance = (worse, better, model) == ("kivi-2", "kivi-2-sink", chart.GEMMA)
    assert (chart.more(RUN, worse, better, model).low > 1) is not by_chance


def test_gemma_agrees_as_the_lesson_says() -> None:
    assert isinstance(RUN, Recorded)
    pairs = (("token-4", "kivi-4"), ("token-2", "kivi-2"), ("channel-4", "channel-4-sink"))
    ratios = [chart.more(RUN, *pair, chart.GEMMA).mean for pair in pairs]
    assert [round(r) for r in ratios[:2]] == [8, 19] and 1 - 1 / ratios[2] == pytest.approx(1 / 3, abs=0.03)
    found = [sum(chart.needle_hits(RUN, name, chart.GEMMA)) for name in ("full", "kivi-2", "token-2")]
    assert found == [10, 9, 0]


def test_needles_go_at_two_bits() -> None:
    assert isinstance(RUN, Recorded)
    found = {name: sum(chart.needle_hits(RUN, name)) for name in ("full", "token-3", "token-2", "kivi-2")}
    assert found == {"full": 14, "token-3": 13, "token-2": 0, "kivi-2": 2}
    assert max(chart.needles(RUN, name).high for name in ("token-2", "kivi-2")) < 0.5
    for name in ("full", "token-3", "kivi-3", "token-4", "kivi-4"):
        assert chart.needles(RUN, name).low > chart.needles(RUN, "kivi-2").high, name
    assert chart.more(RUN, "swapped-2", "kivi-2").low > 1
    assert chart.more(RUN, "fp8", "int8").low > 1
    assert chart.more(RUN, "token-4", "kivi-4").mean > 2 and chart.more(RUN, "token-2", "kivi-2").mean > 3
    assert chart.more(RUN, "kivi-4", "channel-4-sink").low > 1
    way = ("token", "channel", "kivi")
    for worse, better in [(f"{w}-{b - 1}", f"{w}-{b}") for w in way for b in (4, 3)]:
        t = chart.more(RUN, worse, better)
        assert t.low > 2 and t.mean > 4, "each bit less costs several times the KL"
    three, two = ([sum(chart.needle_hits(RUN, f"{w}-{b}")) for w in way] for b in (3, 2))
    assert min(three) >= 12 and max(two) <= 4


def test_with_token_0_exact_the_axis_of_the_values_matters_on_gemma_only() -> None:
    assert isinstance(RUN, Recorded)
    pair = ("channel-4-sink", "kivi-4-sink")
    assert chart.more(RUN, *pair).low < 1 < chart.more(RUN, *pair).high
    assert chart.more(RUN, *pair, chart.GEMMA).low > 1


def test_the_coded_caches_of_the_record_keep_the_newest_32_exact_and_int8_none() -> None:
    from kvlab.measure.methods import METHODS

    for name in ("token-4", "channel-3", "kivi-2", "kivi-2-sink"):
        made = METHODS[name].arguments(None, None)["codec"]
        pair = made if isinstance(made, tuple) else (made.at(0, "keys"), made.at(0, "values"))
        assert {codec.residual for codec in pair} == {32}
        assert {codec.sink for codec in pair} == {4 if "sink" in name else 0}
    assert kvlab.Int8().residual == kvlab.Fp8().residual == 0


def test_the_record_comes_from_a_clean_checkout() -> None:
    assert isinstance(RUN, Recorded)
    sources = [one for row in RUN.rows for one in (row["source"], *row.get("sources", {}).values())]
    assert len(sources) > len(RUN.rows) and not any(one["commit"].endswith("dirty") for one in sources)


def test_copying_is_recorded_only_where_something_was_coded() -> None:
    """A stream of 128 tokens, a residual of 128: at 64 tokens they are the full cache, which says nothing."""
    assert isinstance(RUN, Recorded)
    full = chart.row(RUN, "full")["copying"]
    for row in RUN.select(model=chart.SMOL):
        lossy = "kl" in row and min(row["kl"]) > 1e-4
        assert not lossy or row.get("copying") != full, row["method"]


def test_again_measures_the_recorded_text(
    tiny: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    out = tmp_path / "q.json"
    arguments = ["--model", "tiny", "--device", "cpu", "--quick", "--evaluations", "kl", "--methods", "int8"]
    assert cli.main(["bench", "quality", *arguments, "--out", str(out)]) == 0
    run = Recorded("q", read_report(out))
    first = run.rows[0]["kl"][0]
    assert l12.again(tiny, run, "int8", kvlab.Int8()) == pytest.approx(first, rel=1e-2)
    run.rows[0]["needles"] = {"64": {"key": [1, 0], "two": [0, 0]}}
    assert "2 texts of 128 tokens and 16 further ones; 4 needles" in chart.settings(run, "int8", "tiny")


@pytest.mark.weights
def test_what_the_lesson_says_of_keys_values_and_token_0(smollm2: Decoder) -> None:
    ids, further = l12.prose(smollm2, 256, 16)
    keys, values = l12.entries(smollm2, ids)
    assert l12.loudness(keys).median() > 9 and l12.loudness(values).median() < 3
    for bits in l12.BITS:
        channel, token = (l12.error(Quantize(bits, axis, 32), keys) for axis in ("channel", "token"))
        assert channel < token / 2
    errors = [l12.error(Quantize(bits, "channel", 32), keys) for bits in (4, 3, 2)]
    assert errors[1] > 2 * errors[0] and errors[2] > 2 * errors[1]
    assert 2.7 < l12.error(Quantize(2, "channel", 8), keys) / errors[0] < 3.3
    seen = l12.Attended.take(smollm2, ids)
    channel, token = Quantize(2, "channel", 32), Quantize(2, "token", 32)
    assert l12.error(channel, values) < l12.error(token, values)
    assert seen.mixed_error(channel, values) > 1.6 * seen.mixed_error(token, values)
    assert round(float(seen.received()[0]), 1) == 0.3 and round(float(seen.received()[9]), 2) == 0.05
    back = torch.stack([a[:, -128:].mean(0) for a in seen.maps]).mean(0)  # [queries, tokens]
    newest = sum(float(row[128 + q - 31 : 129 + q].sum()) for q, row in enumerate(back)) / 128
    assert newest > 0.35  # of all attention: more than token 0 has
    assert l12.first_norm(keys) < 0.4 and l12.first_norm(values) < 0.3
    assert l12.token_errors(channel, values)[0] > 1.3 > 0.6 > l12.token_errors(token, values)[0]
    codecs = {f"{bits} bits": KIVI(bits, 32, residual=0) for bits in (4, 3, 2)}
    for errors in l12.layer_errors(smollm2, ids, further[:, :4], codecs).values():
        assert errors[0] == 0 and 0.75 < errors[5] / errors[-1] < 1.25


@pytest.mark.weights
def test_what_the_lesson_says_of_its_texts(smollm2: Decoder) -> None:
    by_channel, by_token = Quantize(2, "channel", 32), Quantize(2, "token", 32)
    assert len(smollm2.tokenizer.encode(PROMPT)) == 64
    a = l12.say(smollm2, PROMPT, (by_channel, by_token), 14)
    b = l12.say(smollm2, PROMPT, (by_token, by_channel), 14)
    assert a.prompt_bytes == b.prompt_bytes == 64 * 23040 * 3 / 16
    later = kvlab.Cache(smollm2, codec=by_token)
    smollm2(batch(smollm2.tokenizer.encode(PROMPT)), later)
    smollm2(batch([5]), later)
    assert later.layers[0].values.sealed_slots == 65  # what comes later is rounded, too
    assert a.text.startswith(" its beautiful bridges") and "building, the building" in b.text
    full, int4 = (l12.say(smollm2, PROMPT, codec, 14).text for codec in (None, Quantize(4)))
    assert full != int4 and int4.startswith(" its beautiful architecture")
