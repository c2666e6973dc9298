"""The doctor's report, its command line, and what it says to those who hand it something else."""

from __future__ import annotations

import pytest
import torch
from doctor_plants import at, llama

import kvlab
from kvlab import cli
from kvlab.doctor import DoctorError, Finding, Report, check

MODULE = """
import torch, kvlab
from kvlab.doctor.loose import Loose

lm = kvlab.load("tiny", device="cpu")

def good(tokens, state):
    state = state or Loose(lm)
    return state(tokens), state

def bad(tokens, state):
    state = state or Loose(lm)
    return state(tokens, torch.arange(tokens.shape[1])), state

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "patients_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "patients_of_mine"


def test_exit_codes(module, capsys):
    assert cli.main(["doctor", f"{module}:good"]) == 0
    assert "no bug found" in capsys.readouterr().out
    assert cli.main(["doctor", f"{module}:bad"]) == 1
    assert "positions-restart" in capsys.readouterr().out
    assert cli.main(["doctor", "tiny", "--store", "static"]) == 0
    assert "a static cache of 96" in capsys.readouterr().out


@pytest.mark.parametrize("told", [["hybrid"], ["hybrid", "--capacity", "80"], ["none"]])
def test_every_store_can_be_examined(told, capsys):
    assert cli.main(["doctor", "tiny-gemma3", "--store", *told]) == 0
    assert f"a {told[0]} cache" in capsys.readouterr().out


def test_a_store_that_the_model_cannot_have_is_refused(capsys):
    assert cli.main(["doctor", "tiny", "--store", "sliding"]) == 1
    err = capsys.readouterr().err
    assert 'use store="hybrid"' in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("no_such_module:x", "no module"),
        ("{}:nothing", "has no 'nothing'"),
        ("{}:number", "the doctor takes"),
        ("tinyy", "tinyy"),
    ],
)
def test_errors_are_one_line(module, told, said, capsys):
    assert cli.main(["doctor", told.format(module)]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and "Traceback" not in err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--help"])
    assert stop.value.code == 0 and "mymodule:step" in capsys.readouterr().out


def good(tokens, state):
    raise AssertionError("never called")


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (3, "not a builtins.int"),
        (torch.nn.Linear(2, 2), "Linear"),
        (lambda tokens: None, "two arguments"),
        (lambda tokens, state: (tokens, state), "pass vocab_size"),
        (lambda ids, new: None, "no model in this loop"),
    ],
)
def test_what_is_no_patient(thing, said):
    with pytest.raises(DoctorError, match=said):
        check(thing)


def raises(tokens, state):
    raise RuntimeError("out of cheese")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (raises, "raised RuntimeError .*out of cheese"),
        (lambda tokens, state: tokens, r"must return \(logits, state\)"),
        (lambda tokens, state: (torch.zeros(len(tokens), 9), state), r"\[batch, tokens, vocab\]"),
        (lambda tokens, state: (torch.zeros(*tokens.shape, 9), state), "all logits are the same"),
    ],
)
def test_steps_that_cannot_be_examined(step, said):
    with pytest.raises(DoctorError, match=said):
        check(step, vocab_size=9)


def test_loops_that_cannot_be_examined():
    lm = kvlab.load("tiny", device="cpu")
    with pytest.raises(DoctorError, match=r"must return logits \[new, vocab\]"):
        check(lambda ids, new: lm(ids), model=lm)
    with pytest.raises(DoctorError, match="the loop raised"):
        check(lambda ids, new: lm.no_such_thing, model=lm)


def test_a_step_that_breaks_later_is_a_finding():
    lm = kvlab.load("tiny", device="cpu")
    right = at(lm, lambda past, new: torch.arange(past, past + new))

    def short(tokens, state):
        if state is not None and state.length > 7:
            raise IndexError("no room")
        return right(tokens, state)

    report = check(short)
    assert not report.ok and "no room" in report.findings[0].evidence


def test_a_full_transformers_cache_is_refused():
    filled = llama()(torch.tensor([[1, 2]]), use_cache=True).past_key_values
    with pytest.raises(DoctorError, match="already holds tokens"):
        check(llama(), filled)


def test_report_in_text_and_html():
    found = Finding("a | b", "<b> & more", "do it", token=3, layer=1)
    report = Report("thing", [found], {"chunks": "equal"}, {"padding": "no mask"})
    text, page = str(report), report._repr_html_()
    assert not report.ok and report.names == {"a", "b"}
    for part in ("thing: a | b", "token 3, layer 1", "fix: do it", "passed: chunks", "padding: no mask"):
        assert part in text
    assert "&lt;b&gt; &amp; more" in page and "not probed: no mask" in page
