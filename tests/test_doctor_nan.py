"""Logits that are not numbers are told as such, and taken for no misuse."""

from __future__ import annotations

import pytest
import torch
from heldout_base import Hugging, Mini, hugging, length

from kvlab.doctor import DoctorError, check


def test_not_a_number_from_the_start_is_no_matter_of_a_cache():
    mini = Mini()
    mini.table[:] = float("nan")
    with pytest.raises(DoctorError, match="not all numbers .* no matter of a cache"):
        check(mini.step, vocab_size=31)


def test_not_a_number_behind_a_cache_is_unknown_trouble():
    mini = Mini()

    def step(tokens, state=None):
        past, new = length(state), tokens.shape[1]
        blind = torch.zeros(new, past + new, dtype=torch.bool)
        return mini.step(tokens, state, see=blind if past else None)

    report = check(step, vocab_size=31)
    assert report.names == {"unknown"} and not report.ok
    assert "not numbers" in report.findings[0].evidence and "lets see nothing" in report.findings[0].evidence


class Blinded(Hugging):
    """Hides padding with minus infinity, so that a padded query sees nothing, and its NaN is read by all."""

    def mask(self, seen, new):
        shown = torch.zeros(len(seen), 1, new, seen.shape[1], dtype=self.model.dtype)
        past = seen.shape[1] - new
        later = torch.ones(new, seen.shape[1], dtype=torch.bool).triu(past + 1)
        return shown.masked_fill((seen == 0)[:, None, None] | later, float("-inf"))


def test_padding_that_gives_no_numbers_is_not_called_unmasked():
    model = hugging("Llama", attn_implementation="eager")
    report = check(Blinded(model))
    assert report.names == {"unknown"}, str(report)
    assert "not numbers" in report.findings[0].evidence
