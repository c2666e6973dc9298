"""Lesson 11: rows counted, alignment, beams, interpreter, transformers' trap, and what the lesson says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.lesson import l11, l11_beam, l11_figures, l11_interpreter, l11_record, l11_t5
from kvlab.lesson.recorded import NotMeasured, Recorded, recorded
from kvlab.model import TranslatorConfig
from kvlab.model.translator import Translator
from kvlab.translation.checkpoint import read_record
from kvlab.translation.numbers import spelled
from kvlab.translation.train import held_out_sample, untrained

TEXT = "three hundred and forty-two"

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def lm() -> Translator:
    return kvlab.load("translator", device="cpu")


@pytest.fixture(scope="module")
def exact() -> Translator:
    return kvlab.load("translator", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def found(lm: Translator) -> l11.Trace:
    return l11.trace(lm, TEXT, "de")


# --- what is computed when ------------------------------------------------------------------------------


def test_rows_are_those_that_the_lesson_counts(found: l11.Trace) -> None:
    assert found.source == ["three", "hundred", "and", "forty", "two"]
    assert found.target == ["drei", "hundert", "zwei", "und", "vierzig", "<end>"]
    assert found.text == "dreihundertzweiundvierzig"
    assert {way: rows.totals for way, rows in found.rows.items()} == {
        "nothing": (30, 30, 21), "self": (5, 30, 6), "self + cross": (5, 5, 6)
    }  # fmt: skip


def test_the_hooks_are_gone_afterwards(lm: Translator) -> None:
    with l11.count_rows(lm) as rows:
        pass
    lm.translate(TEXT, to="fr")
    assert rows.totals == (0, 0, 0)


def test_work_is_rows_times_weights(lm: Translator) -> None:
    """Against the sizes of the matrices themselves."""
    encoder, block = lm.encoder[0], lm.layers[0]

    def numbers(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.dim() == 2)

    once = block.cross_attn.k_proj.weight.numel() * 2
    table = lm.embed_tokens.weight.numel()
    count = l11.Rows([5], [7], [11])
    wanted = 5 * 2 * numbers(encoder) + 7 * 2 * once + 11 * 2 * (numbers(block) - once) + table
    assert l11.work(lm.config, count) == wanted
    assert l11.work(lm.config, l11.Rows([5, 5], [5, 5], [1, 1]), 1) == l11.work(
        lm.config, l11.Rows([5], [5], [1])
    )
    assert l11.work(lm.config, count, 0) == 0


def test_bytes_of_both_parts_word_by_word(found: l11.Trace) -> None:
    word = 2 * 2 * 4 * 32 * 4  # K and V, layers, heads, head_dim, bytes of a float32
    assert found.nbytes == [(step * word, 5 * word) for step in range(1, 7)] and word == 2048


def test_a_longer_source_changes_every_row_of_a_shorter(lm: Translator) -> None:
    short, long = (lm.encode(l11.source_of(lm, text)) for text in ("three hundred", TEXT))
    assert l11.unchanged(short, long) == 0 and l11.unchanged(long, long) == 5


# --- alignment ------------------------------------------------------------------------------------------


def test_german_turns_the_last_words_round(found: l11.Trace) -> None:
    looks = {word: found.source[int(row.argmax())] for word, row in zip(found.target, found.map, strict=True)}
    assert looks["drei"] == "three" and looks["zwei"] == "two" and looks["vierzig"] == "forty"
    assert looks["hundert"] == "three" and looks["und"] == "forty", "as the caption says: neighbours' words"


@pytest.mark.parametrize("of, to", [("en", "de"), ("de", "en"), ("en", "fr"), ("fr", "de")])
def test_nine_words_in_ten_look_at_their_twin(lm: Translator, of: str, to: str) -> None:
    hits, total = l11.alignment(lm, held_out_sample(200)[:40], of, to)
    assert total > 80 and hits > 0.92 * total, "the lesson prints 'more than 9 in 10'"


def test_small_words() -> None:
    assert l11.small_words(342, "de") == {"drei": 3, "zwei": 2, "vierzig": 40}
    assert l11.small_words(97, "fr") == {"quatre": 4, "vingt": 20, "dix": 10, "sept": 7}


def test_a_forgotten_word_is_missed(lm: Translator) -> None:
    source = lm.encode(l11.source_of(lm, TEXT))
    said = [
        lm.tokenizer.decode(l11_beam.search(lm, l11.without(source, i), "de", beams=1)[0].ids, "de")
        for i in range(5)
    ]
    whole = "dreihundertzweiundvierzig"
    assert said == ["einhundertzweiundvierzig", whole, whole, "dreihundertzwei", "dreihundertvierzig"]
    assert source.ids.min() >= 0, "the source itself is as it was"


# --- beams ----------------------------------------------------------------------------------------------


def test_beams_with_a_reordered_cache_are_those_without_a_cache(exact: Translator) -> None:
    sources = [exact.encode(l11.source_of(exact, spelled(n, "en"))) for n in held_out_sample(200)[:15]]
    assert l11_beam.damage(exact, sources, "de", "right") == (0, 0)
    some, best = l11_beam.damage(exact, sources, "de", "not at all")
    assert (some, best) == (9, 0), "the lesson: beams break in most translations, the best one in none"


def test_scores_are_log_probabilities(exact: Translator) -> None:
    source = l11.without(exact.encode(l11.source_of(exact, TEXT)), 4)
    beams = l11_beam.search(exact, source, "de", beams=3)
    for beam in beams:
        given = torch.tensor([[exact.tokenizer.start("de"), *beam.ids[:-1]]])
        log_p = exact(given, source=source)[0].log_softmax(-1)
        assert sum(log_p[i, word] for i, word in enumerate(beam.ids)) == pytest.approx(beam.score, abs=1e-9)
    assert [beam.score for beam in beams] == sorted((beam.score for beam in beams), reverse=True)
    wrong = l11_beam.search(exact, source, "de", beams=3, order="not at all")
    assert wrong[0].ids == beams[0].ids and wrong[1].ids != beams[1].ids


def test_one_beam_is_greedy(lm: Translator) -> None:
    (beam,) = l11_beam.search(lm, lm.encode(l11.source_of(lm, TEXT)), "fr", beams=1)
    assert list(beam.ids) == l11.translate(lm, TEXT, "fr")


# --- figures and the record -----------------------------------------------------------------------------


def test_figures_plot_what_was_counted(found: l11.Trace, lm: Translator) -> None:
    axes = l11_figures.rows_figure(found).axes
    ends = [[line.get_ydata()[-1] for line in ax.lines] for ax in axes]
    assert ends == [[30, 5, 5], [30, 30, 5], [21, 6, 6]]
    heights = [bar.get_height() for bar in l11_figures.bytes_figure(found.nbytes).axes[0].patches]
    assert heights[:6] == [10.24] * 6 and heights[6:] == pytest.approx([2.048 * n for n in range(1, 7)])
    image = l11_figures.alignment(found, "342").axes[0].images[0].get_array()
    assert torch.allclose(torch.tensor(image.data), found.map.double())
    figure = l11_interpreter.interpreter_figure(found, 3, lm)
    assert (
        figure.axes[0].images[0].get_array().mask[3:].all()
        or torch.isnan(torch.tensor(figure.axes[0].images[0].get_array().data[3:])).all()
    )
    (ax,) = l11_figures.loss_curve(read_record()).axes
    assert ax.lines[0].get_ydata().max() > 1 and ax.lines[0].get_ydata().min() == 1e-5


def test_what_the_lesson_says_of_its_record() -> None:
    run = recorded("translation-cpu")
    assert isinstance(run, Recorded) and not run.report.commit.endswith("dirty")
    points = l11_figures.speedups(run, "self + cross", "self")
    own = {source: (time, work) for source, target, time, work in points if target == 16}
    assert round(own[1024][0]) == 7 and round(own[1024][1]) == 80, "7 times as long, 80 times the work"
    assert [time for time, _ in own.values()] == sorted(time for time, _ in own.values())
    for row in run.rows:
        counted = l11_record.step_rows(row["source"], row["target"])[row["way"]]
        assert row["multiply_adds"] == l11.work(l11_record.BASE, counted)
    both = [r["median"] for r in run.select(way="self + cross", target=16)]
    assert max(both) < 1.3 * min(both), "hardly knows how long the source is"
    live = (256, 16, {"nothing": 0.5, "self": 0.1, "self + cross": 0.05})
    left, right = l11_figures.step_times(run, live).axes
    assert [float(line.get_ydata()[0]) for line in left.lines if line.get_marker() == "*"] == [500, 100, 50]
    assert not [line for line in right.lines if line.get_marker() == "*"]
    missing = NotMeasured("x", "not yet")
    assert l11_figures.step_times(missing) is missing and l11_figures.speedups(missing, "a", "b") == []


def test_a_measured_step_computes_the_rows_that_are_counted() -> None:
    shape = TranslatorConfig(
        name="small", vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=4, encoder_layers=1,
    )  # fmt: skip
    lm = untrained(shape, None)
    for way, sample in l11_record.samplers(lm, source=5, target=3).items():
        for _ in range(2):
            with l11.count_rows(lm) as rows:
                sample()
            assert rows == l11_record.step_rows(5, 3)[way]
    report = l11_record.run(lm, [(5, 3), (6, 1)], rounds=1)
    assert [(r["source"], r["way"]) for r in report.rows] == [(n, way) for n in (5, 6) for way in l11.WAYS]


# --- the interpreter ------------------------------------------------------------------------------------


def text_of(widget: l11_interpreter.Interpreter) -> str:
    return re.sub(r"<[^>]+>", " ", widget.view.html.value)


def test_the_interpreter_steps_through_the_words(lm: Translator) -> None:
    widget = l11_interpreter.interpreter(lm)
    assert "said so far:  dreihundertzwei" in text_of(widget) and "vierzig  " in text_of(widget)
    blank = '<td style="background:#FCFBF8"></td>'
    assert widget.view.html.value.count(blank) == 3 * 5, "three words are still to come"
    widget.next.click()
    assert widget.words.value == 4 and widget.view.html.value.count(blank) == 2 * 5
    widget.words.value = 6
    assert "dreihundertzweiundvierzig" in text_of(widget)
    widget.next.click()
    assert widget.words.value == 0 and "Nothing was said yet" in text_of(widget)


def test_the_interpreter_counts_each_way(lm: Translator) -> None:
    widget = l11_interpreter.interpreter(lm, words=6)
    assert "This word, with self + cross cache: 0 encoder, 0 source and 1 target rows" in text_of(widget)
    widget.kept.value = "self"
    assert "This word, with self cache: 0 encoder, 5 source and 1 target rows" in text_of(widget)
    widget.kept.value = "nothing"
    assert "This word, with nothing kept: 5 encoder, 5 source and 6 target rows" in text_of(widget)
    done = {way: rows for way, *rows in l11_interpreter.counters(widget.found(), 6, lm)}
    assert [counts[:3] for counts in done.values()] == [[30, 30, 21], [5, 30, 6], [5, 5, 6]]
    assert done["nothing"][3] > done["self"][3] > done["self + cross"][3] > 0


def test_the_interpreter_takes_any_number_and_direction(lm: Translator) -> None:
    widget = l11_interpreter.interpreter(lm)
    widget.number.value, widget.languages.value = 97, "fr → de"
    assert widget.words.max == 4 and "siebenundneunzig" in text_of(_at_end(widget))
    widget.number.value = 99_999
    assert "neunundneunzigtausendneunhundertneunundneunzig" in text_of(_at_end(widget))
    widget.number.value = 0
    assert widget.words.value <= widget.words.max == 2 and "null" in text_of(_at_end(widget))
    assert len(widget.languages.options) == 6
    assert "image/png" in widget._repr_mimebundle_()[0]


def _at_end(widget: l11_interpreter.Interpreter) -> l11_interpreter.Interpreter:
    widget.words.value = widget.words.max
    return widget


# --- transformers, and plans ----------------------------------------------------------------------------


def test_transformers_answers_the_old_source() -> None:
    t5 = l11_t5.peer()
    assert isinstance(t5, l11_t5.Peer)
    first, second = t5.encode([5, 6, 7, 8, 9]), t5.encode([20, 21, 22])
    cache = t5.cache()
    assert cache.is_updated == {0: False, 1: False}
    for word in (1, 2, 3, 4):
        t5.step([word], first, cache)
    assert t5.projected == [5] and cache.is_updated == {0: True, 1: True}
    answer = t5.step([1], second, cache)
    old, new = t5.step([1, 2, 3, 4, 1], first), t5.step([1], second)
    assert (answer - old).abs().max() < 1e-9 and (answer - new).abs().max() > 0.1
    cache.reset()
    assert (t5.step([1], second, cache) - new).abs().max() < 1e-9


def test_plans_of_sound_and_video() -> None:
    whisper = kvlab.plan("whisper-large-v3", 448, store="cross", source=1500)
    own = whisper.cache_bytes - whisper.cross_bytes
    assert whisper.cross_bytes > 3 * own and round(whisper.cross_bytes / 1e6, 1) == 245.8
    assert round(1500 * 2 * 1280 * 1280 * 32 / 1e9) == 157
    film = [kvlab.plan("gemma3-27b", 480 * 256, store=store) for store in ("dynamic", "hybrid")]
    assert film[0].tokens <= film[0].model.longest
    assert [round(p.cache_bytes / 1e9, 1) for p in film] == [62.4, 10.5]


def test_the_notebook_quotes_what_is_asserted_here() -> None:
    notebook = (Path(__file__).parents[1] / "notebooks" / "11_translation.ipynb").read_text(encoding="utf-8")
    for phrase in ("30 rows instead of 5", "7 times as long", "80 times the multiply-adds", "157 billion"):
        assert phrase in notebook.replace('\\n",\n    "', " ")
