"""Caches and ids that cannot be compared: a sentence says why."""

from __future__ import annotations

import pytest
import torch
from doctor_plants import gpt2, llama
from test_doctor_contents import ids, made, theirs, tiny

import kvlab
from kvlab.doctor import DoctorError, check

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_what_cannot_be_compared():
    lm, tokens = tiny(), ids()
    cache = made(lm, tokens)
    for told, said in (
        ((lm, cache, tokens[0]), r"int64 tensor \[rows, tokens\]"),
        ((lm, cache, tokens[:1]), "2 row"),
        ((lm, cache, tokens + 300), "vocabulary"),
        ((lm, None, tokens), r"check\(lm, cache, ids=ids\)"),
        ((cache, lm, tokens), r"check\(lm, cache, ids=ids\)"),
        ((lm, kvlab.Cache(lm), tokens), "is empty"),
        ((lm, made(lm, tokens, kvlab.Cache(lm, "none")), tokens), "keeps no entries"),
        ((kvlab.load("tiny-gemma3", device="cpu"), cache, tokens), "another model"),
        ((llama(), cache, tokens), "another model"),
        ((llama(), theirs(gpt2(), tokens), tokens), "another one"),
        ((lm, 3, tokens), "not into int"),
    ):
        with pytest.raises(DoctorError, match=said):
            check(*told[:2], ids=told[2])
    with pytest.raises(DoctorError, match="pass them too"):
        check(lm, cache, mask=torch.ones(2, 12, dtype=torch.bool))
    with pytest.raises(DoctorError, match="mask must be bool"):
        check(lm, cache, ids=tokens, mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(DoctorError, match=r"check\(lm, cache, ids=ids\)"):
        check(cache)
