"""`kvlab bench together`: what each way holds and reads, and that all of them are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvlab import cli
from kvlab.measure import together
from kvlab.measure.report import read_report
from kvlab.measure.together import FULL, WAYS, Budget, contexts
from kvlab.model import Decoder

SMALL = "--threads 1 --tokens 512 --rows 2 --continue 3 --repeats 2 --steps 2 --keep 2 --read 4".split()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))


def recorded(tmp_path: Path, *more: str) -> list[dict[str, Any]]:
    out = tmp_path / "together.json"
    assert cli.main(["bench", "together", "--models", "tiny", *SMALL, *more, "--out", str(out)]) == 0
    return read_report(out).rows


def test_each_way_is_recorded_with_bytes_kl_needles_and_times(tmp_path: Path) -> None:
    rows = {row["way"]: row for row in recorded(tmp_path)}
    assert tuple(rows) == WAYS
    full = rows[FULL]
    assert full["times_full"] == 1 and max(full["kl"]) < 1e-5 < min(rows["SnapKV"]["kl"])
    for row in rows.values():
        assert len(row["kl"]) == 2 and len(row["seconds"]) == 2
        assert {kind: len(hits) for kind, hits in row["needles"]["512"].items()} == {"key": 2, "two": 2}
    held = {way: row["bytes"]["stored"] for way, row in rows.items()}
    read = {way: row["bytes"]["read"] for way, row in rows.items()}
    all_three = "int4 + SnapKV + Quest"
    assert held[all_three] < held["int4 + Quest"] < held["Quest"]
    assert held["Quest"] > held[FULL] > held["SnapKV"]  # a selection frees nothing and adds an index
    assert read[all_three] < read["int4 + SnapKV"] < read["SnapKV"] < read[FULL]
    assert read["int4 + Quest"] < read["KIVI + Quest"]  # blocks of keys are decoded whole


def test_only_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    (full, quest) = recorded(tmp_path, "--ways", "Quest", "--evaluations", "bytes")
    assert (full["way"], quest["way"]) == (FULL, "Quest")
    assert not {"kl", "needles", "seconds"} & quest.keys() and quest["bytes"]["read"] < full["bytes"]["read"]


def test_sixteen_bits_are_no_codec_where_the_model_has_no_more(tiny: Decoder, monkeypatch) -> None:
    budget = Budget(512)
    assert budget.arguments(FULL, tiny)["codec"] is not None
    monkeypatch.setattr(type(tiny), "dtype", property(lambda self: together.torch.bfloat16))
    assert budget.arguments(FULL, tiny) == {"codec": None}


def test_contexts_hold_their_needles(tiny: Decoder) -> None:
    hay, later = contexts(tiny, 3, 600, 20)
    assert hay.ids.shape == (3, 600) and later.shape == (3, 20)
    for row, key in enumerate(hay.answers["key"]):
        assert f"The pass key is {key}." in tiny.tokenizer.decode(hay.ids[row].tolist())


def test_what_cannot_be_done_is_refused(tmp_path: Path, capsys) -> None:
    for more, says in ((["--tokens", "64"], "too few"), (["--tokens", "9000"], "was made for")):
        assert cli.main(["bench", "together", "--models", "tiny", *more, "--out", str(tmp_path)]) == 1
        assert says in capsys.readouterr().err
