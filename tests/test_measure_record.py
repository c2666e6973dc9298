"""Clock, provenance, report, table, roofline: what is kept of a run, and that it names no one."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import pytest
import torch

from kvlab.lesson.recorded import recorded
from kvlab.measure import (
    Ceilings,
    Report,
    Timing,
    alternate,
    ceilings,
    measure,
    once,
    read_report,
    roofline,
    table,
)
from kvlab.measure import machine as provenance
from kvlab.measure.report import REQUIRED, shown_command, without_paths

CPU = torch.device("cpu")


def report(**changes) -> Report:
    given = {
        "bench": "try",
        "device": "a processor",
        "parameters": {"n": 1},
        "command": "python -m kvlab bench try",
    }
    return Report(**{**given, **changes})


def test_median_and_quartiles_of_known_samples() -> None:
    timing = Timing([4.0, 1.0, 3.0, 2.0, 100.0])
    assert timing.median == 3.0 and timing.quartiles == (2.0, 4.0)
    assert timing.spread == pytest.approx(2 / 3)
    assert timing.row() == {"seconds": [4.0, 1.0, 3.0, 2.0, 100.0], "median": 3.0, "quartiles": [2.0, 4.0]}
    assert math.isnan(Timing().median)


def test_measure_warms_up_and_keeps_every_sample() -> None:
    calls: list[int] = []
    timing = measure(lambda: calls.append(1), "cpu", repeats=5, warmup=3, calls=4)
    assert len(calls) == 3 + 5 * 4
    assert len(timing.seconds) == 5 and all(s >= 0 for s in timing.seconds)
    assert once(lambda: None, CPU) >= 0


def test_things_are_sampled_in_turn_and_every_round_begins_with_another() -> None:
    order: list[str] = []
    after: list[str] = []

    def sampler(name: str):
        return lambda: order.append(name) or float(len(order))

    timings = alternate({n: sampler(n) for n in "abc"}, rounds=3, done=lambda: after.append(order[-1]))
    assert "".join(order) == "abcbcacab"
    assert after == order
    assert timings["b"].seconds == [2.0, 4.0, 9.0]


def test_a_report_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    first = report(path=path)
    first.add(path="dynamic", **Timing([0.5, 0.25]).row(), bad=float("nan"), dtype=torch.bfloat16)
    first.notes.append("a note")
    first.save()
    again = read_report(path)
    assert again.rows == [
        {
            "path": "dynamic",
            "seconds": [0.5, 0.25],
            "median": 0.375,
            "quartiles": [0.3125, 0.4375],
            "bad": None,
            "dtype": "bfloat16",
        }
    ]
    assert again.notes == ["a note"] and again.bench == "try" and again.commit == first.commit
    assert set(REQUIRED) <= set(json.loads(path.read_text()))
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]  # no temporary file is left


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    run = report(path=tmp_path / "run.json")
    run.add(point=1)
    run.fail("point 2", RuntimeError("out of luck\nand a long story"))
    kept = read_report(tmp_path / "run.json")
    assert kept.rows == [{"point": 1}]
    assert kept.errors == ["point 2: RuntimeError: out of luck"]


def test_a_failure_names_what_is_behind_it() -> None:
    run = report()
    try:
        try:
            raise ValueError("the real reason, in /srv/someone/file.py")
        except ValueError as cause:
            raise RuntimeError("capture failed") from cause
    except RuntimeError as error:
        run.fail("step", error)
    assert run.errors == ["step: RuntimeError: capture failed <- ValueError: the real reason, in file.py"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("no json", "not valid JSON"), ("[]", "lacks"), ('{"bench": "x"}', "lacks schema")],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_report(path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    report(path=path, schema=99).save()
    with pytest.raises(ValueError, match="schema 99"):
        read_report(path)


def test_lessons_read_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(path=tmp_path / "gpu-try.json", commit="abcdef0123456789").save()
    monkeypatch.setenv("KVLAB_RESULTS", str(tmp_path))
    found = recorded("gpu-try", gpu=True)
    assert "a processor" in found.caption and "abcdef0123" in found.caption
    assert "unknown" not in found.caption


def test_a_report_names_no_host_user_or_folder(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    report(path=path, command=shown_command(["decode", "--out", str(tmp_path / "a.json")])).save()
    text = path.read_text()
    host = socket.gethostname()
    assert len(host) < 4 or host not in text
    for folder in (str(Path.home()), str(tmp_path), str(Path.cwd())):
        assert f'"{folder}' not in text and f" {folder}/" not in text
    assert json.loads(text)["command"] == "python -m kvlab bench decode --out a.json"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a/b/c.json", "c.json"),
        ("--out=/a/b", "--out=b"),
        (r"C:\Users\me\out.json", "out.json"),
        ("results/x.json", "results/x.json"),
        ("hf:org/name", "hf:org/name"),
        ("tokens/s and 1/2", "tokens/s and 1/2"),
        ("cannot open '/srv/x/y': no such file", "cannot open 'y': no such file"),
    ],
)
def test_paths_are_cut_to_their_last_part(text: str, shown: str) -> None:
    assert without_paths(text) == shown


def test_the_machine_says_what_it_is() -> None:
    found = provenance.describe()
    assert found["cores"] >= 1 and found["threads"] >= 1 and found["memory_bytes"] > 1e8 and found["cpu"]
    assert provenance.device_name("cpu") == found["cpu"]
    assert {"python", "kvlab", "torch", "numpy"} <= set(provenance.versions())


@pytest.mark.parametrize(
    ("top", "changes", "expected"),
    [(True, "", "abc"), (True, " M kvlab/cache.py", "abc+dirty"), (False, "", "from the environment")],
)
def test_the_commit_is_marked_when_files_differ(
    monkeypatch: pytest.MonkeyPatch, top: bool, changes: str, expected: str
) -> None:
    checkout = str(Path(provenance.__file__).resolve().parents[2]) if top else "/somewhere/else"
    answers = {"--show-toplevel": checkout, "HEAD": "abc", "--untracked-files=no": changes}
    monkeypatch.setattr(provenance, "_output", lambda command: answers[command[-1]])
    monkeypatch.setenv("KVLAB_COMMIT", "from the environment")
    assert provenance.commit() == expected


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_output", lambda command: None)
    monkeypatch.delenv("KVLAB_COMMIT", raising=False)
    assert provenance.commit() == "unknown"
    assert provenance.clocks() == {}


def test_clocks_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_output", lambda command: "580.1, 1980, 2619, 1980, 2619, 700.00, 31")
    assert provenance.clocks()["driver"] == "580.1"
    assert provenance.clocks()["sm_clock_mhz"] == "1980"


def test_a_table_is_aligned() -> None:
    rows = [
        {"path": "a", "ms": 1.5, "n": 1234, "x": None},
        {"path": "longer", "ms": 123.456, "n": 5, "x": 0.5},
    ]
    assert table(rows).splitlines() == [
        "path     ms      n    x",
        "------  ---  -----  ---",
        "a       1.5  1,234    -",
        "longer  123      5  0.5",
    ]
    assert table(rows, ["n"]).splitlines()[2:] == ["1,234", "    5"]
    assert table([]) == "(no rows)"


def test_the_bound_is_the_slower_of_bytes_and_flops() -> None:
    found = Ceilings(copy=10.0, read=20.0, matmul=1000.0)
    assert found.bound(moved=100, flops=1000) == 5.0
    assert found.bound(moved=100, flops=10_000) == 10.0
    assert found.copy_bound(100) == 10.0


def test_ceilings_are_the_best_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "sizes", lambda device, quick: [1_600_000, 3_200_000])
    monkeypatch.setattr(roofline, "matrix_sizes", lambda device, quick: [32])
    monkeypatch.setattr(roofline, "has_compiler", lambda: False)
    best, rows = ceilings("cpu", torch.float32)  # all ways to read, on small tensors
    for what in ("copy", "read", "matmul"):
        assert getattr(best, what) == max(row["rate"] for row in rows if row["what"] == what) > 0
    copy = next(row for row in rows if row["what"] == "copy")
    assert copy["rate"] == pytest.approx(2 * copy["tensor_bytes"] / copy["median"])
    assert len(copy["seconds"]) == 10


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_measured_tensors_are_beyond_caches_and_divide_into_rows(device: str) -> None:
    for size in roofline.sizes(torch.device(device), quick=False):
        assert size >= 500e6 and (size // 4) % roofline.ROW == 0
