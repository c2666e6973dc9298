"""Claims: judged by the learner, then by the measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvlab.lesson import judge, judged, memory

CLAIMS = {"query": "Only the `query` is computed.", "linear": "A step is O(1)."}
MEASURED = {
    "query": ("false", "without its key and value: error 3.6"),
    "linear": ("depends", "weights dominate"),
}


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KVLAB_WORK", raising=False)
    monkeypatch.setattr(memory, "_kept", {})


def test_unjudged_claims_give_a_fixed_table() -> None:
    judge("03.claims", CLAIMS)
    first = judged("03.claims", CLAIMS, MEASURED)
    assert [row[1:] for row in first.rows] == [("–", *MEASURED["query"]), ("–", *MEASURED["linear"])]
    data = first._repr_mimebundle_()
    assert ">query</code> is computed." in data["text/html"]
    assert data["text/plain"].endswith("is computed.: measured false; A step is O(1).: measured depends")


def test_verdicts_stand_beside_the_measured_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_WORK", str(tmp_path))
    asked = judge("03.claims", CLAIMS)
    asked.buttons["query"].value = "false"
    asked.buttons["linear"].value = "true"
    assert "2 of 2 judged" in asked.saved.value
    monkeypatch.setattr(memory, "_kept", {})  # another kernel
    rows = judged("03.claims", CLAIMS, MEASURED).rows
    assert [row[1] for row in rows] == ["false ✓", "true ✗"]
    assert judge("03.claims", CLAIMS).buttons["linear"].value == "true"


def test_the_fallback_lists_the_claims() -> None:
    data, _ = judge("03.claims", CLAIMS)._repr_mimebundle_()
    assert "query</code> is computed.</li>" in data["text/html"]


def test_mistaken_measurements_are_refused() -> None:
    with pytest.raises(ValueError, match="the claims are"):
        judged("03.claims", CLAIMS, {"query": ("false", "")})
    with pytest.raises(ValueError, match="write true, false or depends"):
        judged("03.claims", CLAIMS, {**MEASURED, "query": ("perhaps", "")})
