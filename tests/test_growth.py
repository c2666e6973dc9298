"""`bench growth`: what is copied and held is counted on real buffers and equals the theory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvlab import Cache, cli
from kvlab.measure import Timing, read_report
from kvlab.measure.growth import (
    CONCATENATION,
    DOUBLING,
    PREALLOCATED,
    WAYS,
    _timed,
    append,
    copied_tokens,
    grow,
    shell,
)
from kvlab.zoo import SHAPES

TINY = SHAPES["tiny"]
TOKEN = 2 * TINY.num_hidden_layers * TINY.num_key_value_heads * TINY.head_dim * 4
BUFFER = TOKEN // (2 * TINY.num_hidden_layers)  # bytes of a token in one of the buffers
LM = shell(TINY, torch.float32, torch.device("cpu"))


def grown(way: str, before: int, new: int):
    cache = Cache(LM, store=WAYS[way](before + new))
    append(cache, before)
    return cache, grow(cache, new)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("before", "new"), [(1, 40), (5, 7), (16, 1), (16, 33)])
def test_counted_copies_are_the_theory(way: str, before: int, new: int) -> None:
    cache, found = grown(way, before, new)
    assert found.copied[-1] == copied_tokens(way, before, new) * TOKEN
    assert found.stored == [n * TOKEN for n in range(before + 1, before + new + 1)]
    assert cache.used == before + new and len(found.seconds.seconds) == new


def test_the_theory_by_hand() -> None:
    # 3 there, 6 more: concatenation moves 3 + 4 + … + 8; doubling moves 3 and 6, and room for 12 is there.
    assert copied_tokens(CONCATENATION, 3, 6) == 3 + 4 + 5 + 6 + 7 + 8
    assert copied_tokens(DOUBLING, 3, 6) == 3 + 6
    assert copied_tokens(DOUBLING, 3, 3) == 3 and copied_tokens(DOUBLING, 4, 4) == 4
    assert copied_tokens(PREALLOCATED, 3, 6) == 0


def test_what_is_held() -> None:
    room = {way: [n // TOKEN for n in grown(way, 3, 6)[1].allocated] for way in WAYS}
    assert room[CONCATENATION] == [4, 5, 6, 7, 8, 9]
    assert room[DOUBLING] == [6, 6, 6, 12, 12, 12]
    assert room[PREALLOCATED] == [9] * 6


def test_the_peak_counts_the_buffer_that_moves_twice() -> None:
    """Buffers move one after the other: while the last one does, it is there in both sizes."""
    assert grown(CONCATENATION, 3, 6)[1].peak == 9 * TOKEN + 8 * BUFFER
    assert grown(DOUBLING, 3, 6)[1].peak == 12 * TOKEN + 6 * BUFFER
    assert grown(PREALLOCATED, 3, 6)[1].peak == 9 * TOKEN


def test_bench_growth_records_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "growth.json"
    arguments = ["--models", "tiny", "--device", "cpu", "--contexts", "4", "16", "--append", "5"]
    assert cli.main(["bench", "growth", *arguments, "--total", "12", "--out", str(out)]) == 0
    run = read_report(out)
    points = [(4, 5), (16, 5), (1, 11)]
    assert [(r["tokens_before"], r["tokens_appended"], r["store"]) for r in run.rows] == [
        (*point, way) for point in points for way in WAYS
    ]
    for row in run.rows:
        assert row["model"] == "tiny" and len(row["seconds"]) == row["tokens_appended"]
        assert row["copied_bytes"] == row["theory_copied_bytes"]
        assert row["stored_bytes"] == row["logical_bytes"] <= row["allocated_bytes"] <= row["peak_bytes"]
        assert row["slowest"] == max(row["seconds"]) <= row["total_seconds"]
    assert "concatenation" in capsys.readouterr().out


def test_an_unknown_shape_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "growth", "--models", "tinny", "--out", str(tmp_path)]) == 1
    assert "'tinny' is none of" in capsys.readouterr().err


def test_a_long_run_keeps_means_of_several_appends() -> None:
    row = _timed(Timing([1.0, 3.0, 5.0, 7.0, 9.0]), most=2)
    assert row["appends_a_sample"] == 3 and row["seconds"] == [3.0, 8.0]
    assert row["slowest"] == 9.0 and row["total_seconds"] == 25.0
