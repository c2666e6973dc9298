"""No false alarm: the doctor says nothing of correct use, in three libraries."""

from __future__ import annotations

import pytest
import torch
from doctor_plants import gemma3, gpt2, llama, mistral, static, wrapper, x_step

import kvlab
from kvlab.doctor import check
from kvlab.doctor.gallery import GALLERY

PROBES = {
    "repeatable",
    "gradients",
    "chunks",
    "new text",
    "long text",
    "batch",
    "fork",
    "crop",
    "reorder",
    "reset",
}


def tiny():
    return kvlab.load("tiny", device="cpu")


def configurations():
    lm, windowed = tiny(), kvlab.load("tiny-gemma3", device="cpu")
    yield "kvlab, dynamic, GQA", (lm,)
    yield "kvlab, static", (lm, kvlab.Cache(lm, store="static", capacity=80))
    yield "kvlab, none", (lm, kvlab.Cache(lm, store="none"))
    yield "kvlab, hybrid of fixed size", (windowed, kvlab.Cache(windowed, store="hybrid", capacity=80))
    yield "kvlab, sliding windows", (windowed,)
    yield "kvlab, float64", (kvlab.load("tiny", device="cpu", dtype="float64"),)
    yield "transformers, Llama, DynamicCache", (llama(),)
    yield "transformers, Llama, StaticCache", (llama(), static(llama(), 80))
    yield "transformers, Llama, small StaticCache", (llama(), static(llama(), 40))
    yield "transformers, GPT-2, learned positions", (gpt2(),)
    yield "transformers, Mistral, window", (mistral(8),)
    yield "transformers, Gemma 3, DynamicCache", (gemma3(),)
    yield "transformers, Gemma 3, StaticCache", (gemma3(), static(gemma3(), 80))
    for kind in ("rotary", "learned", "t5", "none"):
        yield f"x-transformers, {kind}, whole sequence", (wrapper(kind),)
        yield f"x-transformers, {kind}, new tokens only", (wrapper(kind, new_only=True),)
    yield "x-transformers, a step of the caller's", (x_step(wrapper("rotary"), whole=False, flag=True),)


@pytest.mark.parametrize(("name", "given"), [pytest.param(*one, id=one[0]) for one in configurations()])
def test_correct_use_is_silent(name, given, capsys):
    report = check(*given)
    assert report.ok and not report.findings, str(report)
    assert {"repeatable", "gradients", "chunks", "new text", "long text", "batch"} <= set(report.passed)
    out = capsys.readouterr()
    assert out.out == "" and out.err == ""


def test_kvlab_is_probed_in_full():
    report = check(tiny())
    assert set(report.passed) >= PROBES | {"padding", "rounding"} and not report.not_probed


def test_bfloat16_is_rounding_and_no_bug():
    for model in (kvlab.load("tiny", device="cpu", dtype="bfloat16"), llama(rms_norm_eps=1e-5).bfloat16()):
        report = check(model)
        assert report.ok and report.names <= {"rounding"}, str(report)


@pytest.mark.parametrize("name", sorted(GALLERY))
def test_the_fixes_of_the_gallery_are_silent(name):
    report = check(GALLERY[name].right(tiny()))
    assert report.ok and report.names <= {"lossy"}, str(report)
    assert bool(report.names) == (not GALLERY[name].exact)


def test_a_model_is_left_as_it_was():
    lm = wrapper("rotary", ff_dropout=0.2).eval()
    before = {name: p.clone() for name, p in lm.named_parameters()}
    state = torch.get_rng_state()
    check(lm)
    assert torch.equal(torch.get_rng_state(), state) and not lm.training
    assert all(
        torch.equal(p, before[name]) and p.dtype == before[name].dtype for name, p in lm.named_parameters()
    )


def test_train_mode_without_dropout_is_harmless():
    assert check(wrapper("none", new_only=True, attn_qk_norm=False).train()).ok
