"""Lesson 04: what it says about the libraries and the gallery, its figures, its theatre driven here."""

from __future__ import annotations

import base64
import html
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kvlab
from kvlab.doctor.gallery import GALLERY, damage
from kvlab.lesson import check, l04, l04_contracts, l04_figures, l04_libraries, l04_theatre
from kvlab.lesson.style import ATTENTION_NORM
from kvlab.model import Decoder

PROMPT = "The cat is on the mat. The capital of France is"


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def lm() -> Decoder:
    return kvlab.load("tiny", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def ids(lm: Decoder) -> Tensor:
    return torch.tensor([lm.tokenizer.encode("The cat is on the mat.")])


@pytest.fixture(scope="module")
def stage(lm: Decoder) -> l04.Stage:
    return l04.Stage(lm, "The cat sat", new=5)


# --- the same weights in both libraries -----------------------------------------------------------------


def test_both_libraries_compute_what_the_decoder_computes(lm: Decoder, ids: Tensor) -> None:
    """x-transformers' norm has no epsilon, which moves these logits (std 1.6) by some thousandths."""
    ours = lm(ids)
    assert (l04_libraries.in_transformers(lm)(ids).logits - ours).abs().max() < 1e-4
    assert (l04_libraries.in_x_transformers(lm)(ids) - ours).abs().max() < 0.02


def test_moved_weights_are_exact_where_the_norm_has_no_epsilon(lm: Decoder, ids: Tensor) -> None:
    """Scaled up, the embeddings drown the epsilon: what is left is the order of pairs and heads."""
    weights = {name: weight.double() for name, weight in lm.named_parameters()}
    weights["embed_tokens.weight"] *= 1e4
    loud = type(lm).from_weights(lm.config, weights, lm.tokenizer, dtype=torch.float64)
    model = l04_libraries.in_x_transformers(loud)
    assert float((model(ids) / 1e4 - loud(ids) / 1e4).abs().max()) < 1e-3


def test_libraries_are_quiet_and_keep_no_gradients(lm: Decoder, capfd: pytest.CaptureFixture[str]) -> None:
    models = l04_libraries.in_transformers(lm), l04_libraries.in_x_transformers(lm)
    out = capfd.readouterr()
    assert out.out + out.err == ""
    assert not any(p.requires_grad for model in models for p in model.parameters())


# --- contracts ------------------------------------------------------------------------------------------


def test_only_positions_break_with_the_last_token_alone(lm: Decoder, ids: Tensor) -> None:
    table = l04.contract_table(lm, ids)
    wrong = {(k, c) for k, row in table.items() for c, e in row.items() if e > l04.EXACT}
    assert wrong == {
        ("rotary", "last token"), ("learned", "last token"), ("learned", "whole text + flag"),
    }  # fmt: skip
    assert min(table[kind][contract] for kind, contract in wrong) > 1
    assert max(e for row in table.values() for e in row.values() if e < l04.EXACT) < 1e-4


def test_the_context_counts_in_a_model_without_positions(lm: Decoder, ids: Tensor) -> None:
    """Exact with the last token only could mean that earlier tokens do not matter: they do."""
    model = l04_libraries.in_x_transformers(lm, "none")
    assert (model(ids)[0, -1] - model(ids[:, -1:])[0, -1]).abs().max() > 0.1


@pytest.mark.parametrize(("whole", "right"), [(True, False), (False, True)])
def test_transformers_wants_new_tokens_only(lm: Decoder, ids: Tensor, whole: bool, right: bool) -> None:
    model = l04_libraries.in_transformers(lm)

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=cache, use_cache=True)
        return out.logits, out.past_key_values

    error = l04.error(lambda t: model(t).logits, ids, *l04.decode(step, ids, 6, whole))
    assert (error < 1e-4) if right else (error > 1)


def test_one_of_two_new_tokens_is_dropped_by_default(lm: Decoder, ids: Tensor) -> None:
    model, kept = l04_libraries.in_x_transformers(lm), []
    for age in (1, 2):
        _, cache = model(ids, return_intermediates=True)
        more: Any = {"input_not_include_cache": True, "cache_age": age, "return_intermediates": True}
        kept.append(model(ids[:, :2], cache=cache, **more)[1].cache_length - ids.shape[1])
    assert kept == [1, 2]


def test_train_mode_harms_only_where_something_is_random(lm: Decoder, ids: Tensor) -> None:
    def modes(train: bool, **layers: float) -> list[bool]:
        return [error > l04.EXACT for error in l04.mode_errors(lm, ids, train, **layers)]

    assert modes(True) == [False, False]
    assert modes(True, attn_dropout=0.1) == modes(True, layer_dropout=0.3) == [True, True]
    assert modes(False, attn_dropout=0.1, layer_dropout=0.3) == [False, False]


@pytest.mark.weights
def test_the_words_of_the_lesson_on_the_real_model(smollm2: Decoder) -> None:
    found = [
        damage(GALLERY["offset-by-one"], smollm2, l04.CHAT.format(question), new)
        for question, new in (("What is the capital of France?", 12), ("Why is the sky blue?", 24))
    ]
    paris, sky = found
    assert paris.right.tokens == paris.wrong.tokens and paris.wrong.tokens[-1] == 2
    assert round(paris.worst) == 11 and paris.right_error < l04.EXACT
    assert sky.first_difference == 15 and l04.shared_words(sky.right.text, sky.wrong.text) == 14
    assert sky.error[0] < l04.EXACT and 2 < sky.error[1:].min() and sky.error.max() < 13
    short = l04.Stage(smollm2, PROMPT, new=8)
    texts = short.texts(l04.FOUR)
    assert texts["B"] == texts["D"] and len(set(texts.values())) == 3
    assert round(short["offset-by-one"].worst) == 2
    assert l04_figures.rows(short["whole-sequence-appended"].wrong, 8).shape == (8, 124)


# --- stage and figures ----------------------------------------------------------------------------------


def test_a_stage_runs_a_misuse_once_and_keeps_it(stage: l04.Stage) -> None:
    assert stage["offset-by-one"] is stage["offset-by-one"]
    assert (stage.layer, stage.head) == (3, 0), "a small model has no layer 16"
    assert len(stage["offset-by-one"].error) == 5


def test_words_are_counted_until_texts_part() -> None:
    assert l04.shared_words("a b c", "a b d") == 2
    assert l04.shared_words("a b", "a b") == 2
    assert l04.shared_words("x", "y") == 0


def test_ladders_plot_used_and_true_positions(stage: l04.Stage) -> None:
    prompt = len(stage["offset-by-one"].prompt_ids)
    figure = l04_figures.ladders({n: stage[n] for n in ("offset-by-one", "positions-restart")})
    true = [prompt - 1 + i for i in range(5)]
    far, again = ([line.get_ydata() for line in ax.lines] for ax in figure.axes)
    assert list(far[0]) == list(again[0]) == true
    assert list(far[1]) == [true[0], *(p + 1 for p in true[1:])]
    assert list(again[1]) == [true[0], 0, 0, 0, 0]


def test_attention_rows_are_the_predicting_queries(stage: l04.Stage) -> None:
    found = stage["mask-top-left"]
    tokens = [str(i) for i in range(5)]
    figure = l04_figures.attention_rows({"right": found.right, "wrong": found.wrong}, tokens)
    right, wrong = (ax.images[0].get_array().filled(np.nan) for ax in figure.axes[:2])
    assert np.allclose(np.nansum(right, axis=1), 1, atol=1e-5)
    assert [int(np.isfinite(row).sum()) for row in right] == [right.shape[1] - 4 + i for i in range(5)]
    assert (wrong[1:, 0] == 1).all(), "a query under a top-left mask sees slot 0 only"
    assert {id(ax.images[0].norm) for ax in figure.axes[:2]} == {id(ATTENTION_NORM)}


# --- the theatre ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theatre(stage: l04.Stage) -> l04_theatre.Theatre:
    return l04_theatre.theatre(stage)


def test_all_but_three_misuses_are_on_stage() -> None:
    assert set(GALLERY) == {*l04_theatre.PLAYS, *l04_theatre.OFFSTAGE}
    assert len(l04_theatre.PLAYS) == 21 and len(l04_theatre.OFFSTAGE) == 3


def test_ten_misuses_are_wrong_from_the_first_new_token(stage: l04.Stage) -> None:
    stage.fill(l04_theatre.PLAYS)
    at_once = {name for name in l04_theatre.PLAYS if stage[name].error[0] > l04.EXACT}
    assert at_once == {
        "no-mask-in-chunk", "padding-without-mask", "another-prompts-cache", "cache-covers-prompt",
        "static-not-reset", "shared-prefix-in-place", "crop-on-ring", "dropout-on", "layer-dropout",
        "rows-permuted",
    }  # fmt: skip


@pytest.mark.parametrize("name", l04_theatre.PLAYS)
def test_every_play_can_be_shown_at_every_token(theatre: l04_theatre.Theatre, name: str) -> None:
    theatre.play.value = name
    for upto in (1, 5):
        theatre.token.value = upto
        assert "failed" not in theatre.text.html.value + theatre.view.html.value
        assert html.escape(GALLERY[name].title) in theatre.view.html.value


def test_the_theatre_grows_token_by_token(stage: l04.Stage) -> None:
    scenery, found = l04_theatre.Scenery(stage), stage["positions-restart"]
    for upto in (2, 5):
        figure = scenery.show("positions-restart", upto)
        ladder, error, right, wrong = figure.axes[:4]
        assert [ax.get_title(loc="center") for ax in (right, wrong)] == ["", ""], "one title over another"
        for line, values in (
            (ladder.lines[0], l04_figures.places(found.right, 5)),
            (ladder.lines[1], l04_figures.places(found.wrong, 5)),
            (error.lines[0], l04_figures.errors(found)),
        ):
            assert np.allclose(line.get_ydata()[:upto], values[:upto])
            assert np.isnan(line.get_ydata()[upto:]).all()
        for ax, side in ((right, found.right), (wrong, found.wrong)):
            shown = ax.images[0].get_array().filled(np.nan)
            assert np.allclose(shown[:upto], l04_figures.rows(side, 5)[:upto], equal_nan=True)
            assert np.isnan(shown[upto:]).all()


def test_the_picture_changes_with_both_controls(theatre: l04_theatre.Theatre) -> None:
    theatre.play.value, theatre.token.value = "positions-restart", 5
    seen = {theatre.view.html.value}
    theatre.token.value = 3
    seen.add(theatre.view.html.value)
    theatre.play.value = "mask-top-left"
    seen.add(theatre.view.html.value)
    assert len(seen) == 3


def test_a_layer_that_was_skipped_leaves_its_panel_empty(stage: l04.Stage) -> None:
    side = stage["offset-by-one"].wrong
    fewer = type(side)(side.text, side.tokens, side.positions[1:], side.ids[1:], side.maps[1:])
    assert l04_figures.places(fewer, 5) == [] and l04_figures.rows(fewer, 5).size == 0
    assert l04_figures.places(side, 5) and l04_figures.rows(side, 5).size


def test_wrong_words_are_marked_from_the_first_that_differs(stage: l04.Stage) -> None:
    stage._done["offset-by-one"].wrong.tokens[2:] = [7, 7, 7]
    text = l04_theatre.said(stage, "offset-by-one", 5)
    marked = re.findall(r"font-weight:bold\">(.*?)</span>", text)
    assert marked[0] == "" and marked[1] != ""
    del stage._done["offset-by-one"]


def test_the_theatre_has_a_picture(theatre: l04_theatre.Theatre) -> None:
    data, _ = theatre._repr_mimebundle_()
    assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
    assert data["text/plain"].startswith("[widget] Misuse theatre")


# --- the exercise and the doctor ------------------------------------------------------------------------


def test_one_mistake_is_told_at_a_time() -> None:
    """With the first loop repaired, the check speaks of the second."""

    class Steps:
        def told(self, cache: Any, text: Tensor, held: int) -> Tensor:
            return cache(text[:, held:], torch.arange(held, text.shape[1]))

        def appends(self, model: Any, text: Tensor, held: int) -> Tensor:
            return model(text)

        def slices(self, model: Any, text: Tensor, held: int) -> Tensor:
            return model(text[:, held:])

    found = check("04.1", Steps)
    assert found.kind == "mistake" and found.text.startswith("`appends`")
    Steps.appends = lambda self, model, text, held: model(text[:, held:])  # type: ignore[method-assign]
    found = check("04.1", Steps)
    assert found.kind == "mistake" and found.text.startswith("`slices`")


def test_loops_after_a_wrong_one_are_not_compared() -> None:
    class Steps:
        def told(self, cache: Any, text: Tensor, held: int) -> Tensor:
            return cache(text[:, held:], torch.zeros(text.shape[1] - held, dtype=torch.int64))

    said = l04_contracts.run_steps(Steps(), torch.arange(8)[None], [5, 1, 2])
    assert said["told"] is not None and said["told"].shape[0] == 3
    assert said["appends"] is None and said["slices"] is None


def test_the_doctor_names_the_articles_loop(lm: Decoder) -> None:
    model = l04_libraries.in_transformers(lm)

    def yours(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        text, cache = state or (tokens[:, :0], None)
        text = torch.cat([text, tokens], dim=1)
        out = model(text, past_key_values=cache, use_cache=True)
        return out.logits[:, -tokens.shape[1] :], (text, out.past_key_values)

    report = kvlab.doctor.check(yours)
    assert [finding.name for finding in report.findings] == ["whole-sequence-appended"]
