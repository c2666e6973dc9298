"""`kvlab bench packed`: what a step holds beyond the cache, and the rows that it records."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from kvlab import cli
from kvlab.measure.packed import codecs, packed_table, peak_extra_bytes
from kvlab.measure.report import read_report

CPU = torch.device("cpu")


def test_the_peak_is_what_is_held_at_one_moment() -> None:
    kept: list[torch.Tensor] = []

    def work(leave: bool) -> None:
        first = torch.ones(1 << 20)  # 4 MiB, gone before the second begins
        del first
        second, third = torch.ones(1 << 20), torch.ones(1 << 19)
        if leave:
            kept[:] = [third]
        del second

    for leave in (False, True):  # what the first call left is freed by the second, and does not count twice
        peak = peak_extra_bytes(partial(work, leave), CPU)
        assert 6 << 20 <= peak < (6 << 20) + 10_000


def test_rows_say_what_was_measured(tmp_path: Path, capsys) -> None:
    target = tmp_path / "packed.json"
    code = cli.main(
        ["bench", "packed", "--models", "tiny", "--device", "cpu", "--contexts", "300", "--blocks", "32"]
        + ["--repeats", "2", "--out", str(target)]
    )
    assert code == 0 and "peak extra MB" in capsys.readouterr().out
    report = read_report(target)
    ways = {(row["codec"], row["blockwise"]) for row in report.rows}
    assert ways == {("exact", None), *((name, n) for name in codecs(16) for n in (None, 32))}
    for row in report.rows:
        assert len(row["seconds"]) == len(row["over_exact"]) == len(row["over_decode_all"]) == 2
    by = {(row["codec"], row["blockwise"]): row for row in report.rows}
    assert by["Int8", 32]["peak_extra_bytes"] < by["Int8", None]["peak_extra_bytes"]
    assert by["Int8", 32]["stored_bytes"] == by["Int8", None]["stored_bytes"]
    assert by["exact", None]["over_exact"] == [1, 1]
    assert "whole" not in packed_table(report)
