"""The gallery on SmolLM2: what lesson 04 tells, measured again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvlab.doctor.gallery import GALLERY, damage
from kvlab.doctor.gallery.in_transformers import twin
from kvlab.model import Decoder

pytestmark = pytest.mark.weights

FRANCE = "The cat is on the mat. The capital of France is"


@pytest.fixture(scope="module")
def france(smollm2: Decoder) -> Tensor:
    return torch.tensor([smollm2.tokenizer.encode(FRANCE)])


def test_one_too_far_prints_the_same_text_from_wrong_logits(smollm2: Decoder) -> None:
    it = damage(GALLERY["offset-by-one"], smollm2, FRANCE, 24)
    assert it.right.text == it.wrong.text == " Paris.\n\nThe answer is: 1.\n\nThe answer is: 2."
    assert it.right.tokens[-1] in smollm2.config.eos_token_ids  # the stop token too
    assert it.first_difference is None
    assert 1.5 < it.worst < 3  # measured: 2.24
    assert it.right_error < 1e-3
    assert it.error[0] < 1e-3  # the first new token comes from the prompt alone


def test_a_longer_text_gives_one_too_far_away(smollm2: Decoder) -> None:
    """The year of birth changes, and nothing else in the sentence."""
    chat = smollm2.tokenizer.chat([{"role": "user", "content": "Who was Ada Lovelace?"}])
    it = damage(GALLERY["offset-by-one"], smollm2, chat, 24)
    assert it.right.text.startswith("Ada Lovelace was an English mathematician who lived from 1794 to 1808")
    assert it.wrong.text.startswith("Ada Lovelace was an English mathematician who lived from 1791 to 1808")
    assert it.first_difference == 16


@pytest.mark.parametrize(
    "name, floor, text",
    [
        ("positions-restart", 9, " Paris is a city that is a city that is a"),  # measured: 18.4
        ("mask-top-left", 15, " Paris and,,,"),  # 30.3
        ("mask-new-tokens-only", 16, " Paris---"),  # 32.5
        ("whole-sequence-appended", 10, " Paris.\n\nThe cat is on the mat."),  # 23.8
    ],
)
def test_the_others_do_not_hide(smollm2: Decoder, name: str, floor: float, text: str) -> None:
    it = damage(GALLERY[name], smollm2, FRANCE, 14)
    assert it.worst > floor
    assert it.wrong.text.startswith(text)
    assert it.right.text.startswith(" Paris.\n\nThe answer is")
    assert it.right_error < 1e-3


@torch.no_grad()
def test_transformers_makes_the_same_mistakes_on_the_same_weights(smollm2: Decoder, france: Tensor) -> None:
    model, new = twin(smollm2), smollm2.tokenizer.encode(" Paris.\n\nThe answer")
    for name in ("positions-restart", "whole-sequence-appended", "offset-by-one"):
        there = GALLERY[name].elsewhere["transformers"].wrong(model, france, new)
        assert (there - GALLERY[name].loop(smollm2, france, new)).abs().max() < 1e-2
