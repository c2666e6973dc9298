"""The first cells of a lesson, recorded runs, and code shown in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kvlab
from kvlab import lesson
from kvlab.lesson import listing, session
from kvlab.measure.report import Report


@pytest.fixture
def _gradients():
    yield
    torch.set_grad_enabled(True)


@pytest.mark.usefixtures("_gradients")
def test_start_is_one_line_and_makes_random_numbers_repeatable() -> None:
    assert repr(lesson.start("03")) == "Lesson 03: Naive decoding repeats itself: the KV cache (seed 0)"
    first = torch.rand(2)
    lesson.start("03")
    assert torch.equal(torch.rand(2), first) and not torch.is_grad_enabled()
    with pytest.raises(LookupError, match="'00' to '20'"):
        lesson.start("21")


def test_the_map_of_the_course() -> None:
    assert list(lesson.LESSONS) == [f"{n:02d}" for n in range(21)] and set(lesson.CORE) < set(lesson.LESSONS)


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_DEVICE", "meta")
    assert lesson.device() == "meta"
    monkeypatch.delenv("KVLAB_DEVICE")
    assert lesson.device() == ("cuda" if torch.cuda.is_available() else "cpu")


def test_without_weights_a_lesson_goes_on_with_tiny_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load(name: str, **_: object) -> str:
        asked.append(name)
        if name != "tiny":
            raise kvlab.ModelError("no network and nothing kept")
        return "a tiny model"

    monkeypatch.setattr(kvlab, "load", load)
    session.model.cache_clear()
    try:
        assert lesson.model() == "a tiny model" and asked == ["smollm2-135m", "tiny"]
        said = capsys.readouterr().out
        assert "no network and nothing kept" in said and "random weights" in said
        assert lesson.model() == "a tiny model" and len(asked) == 2, "loaded once"
    finally:
        session.model.cache_clear()


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVLAB_RESULTS", str(tmp_path))
    return tmp_path


def record(path: Path, **changes: object) -> None:
    report = Report(
        "decode", "A CPU", {}, "python -m kvlab bench decode", rows=[{"side": "naive", "ms": 2.5}]
    )
    report.date, report.versions = "2025-01-02T03:04:05", {"torch": "2.9", "python": "3.12"}
    report.commit = "abcdef0123456"
    for name, value in changes.items():
        setattr(report, name, value)
    report.save(path)


def test_a_recorded_run_says_where_it_comes_from(results: Path) -> None:
    record(results / "decode.json")
    found = lesson.recorded("decode")
    assert found and found.rows == found.select(side="naive") == [{"side": "naive", "ms": 2.5}]
    assert found.caption == "Recorded on A CPU, 2025-01-02, torch 2.9, commit abcdef0123."
    record(results / "changed.json", commit="abcdef0123456+dirty")
    assert lesson.recorded("changed").caption.endswith("commit abcdef0123+dirty.")
    with pytest.raises(ValueError, match=r"no row with .*fast.*there are .*naive"):
        found.select(side="fast")


def test_what_was_never_measured_is_said(results: Path) -> None:
    record(results / "load.json")
    with pytest.raises(FileNotFoundError, match="there are: load"):
        lesson.recorded("decode")
    missing = lesson.recorded("gpu-growth", gpu=True)
    assert not missing and repr(missing) == missing.caption and missing.caption.startswith("Not yet measured")


def test_damaged_records_and_a_missing_folder(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not valid JSON"):
        lesson.recorded("bad")
    monkeypatch.setenv("KVLAB_RESULTS", str(results / "nowhere"))
    with pytest.raises(FileNotFoundError, match="KVLAB_RESULTS"):
        lesson.recorded("bad")


def test_source_shows_the_package_lines() -> None:
    shown = lesson.source(listing.without_docstrings)
    assert shown.where == "kvlab/lesson/listing.py" and shown.code.startswith("def without_docstrings(")
    assert '"""' in shown.code
    bare = lesson.source(listing.without_docstrings, docstring=False).code
    assert '"""' not in bare and bare.splitlines()[1].strip().startswith("drop")
    method = lesson.source(lesson.Check.ok.fget)
    assert method.code.startswith("@property\ndef ok"), "methods are dedented"


def test_docstrings_go_and_everything_else_stays() -> None:
    code = '"""Module."""\nx = """text"""\n\ndef f():\n    """Two\n    lines."""\n    # why\n    return 1'
    assert listing.without_docstrings(code) == 'x = """text"""\n\ndef f():\n    # why\n    return 1'
    only = 'class A:\n    """Nothing else: dropping it would break the code."""'
    assert listing.without_docstrings(only) == only
