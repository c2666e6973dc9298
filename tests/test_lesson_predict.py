"""Predictions: locked once, kept for other lessons, drawn beside the measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvlab.lesson import forget, memory, predict, predictions, reveal
from kvlab.lesson.predicting import UNLOCKED, number_line, with_unit


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KVLAB_WORK", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "_kept", {})


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVLAB_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


def ask_speed():
    return predict("03.speed", "How much faster?", slider=(1, 2000), unit="×")


def test_unlocked_is_one_fixed_line_whatever_was_measured() -> None:
    ask_speed()
    first, second = (reveal("03.speed", measured)._repr_mimebundle_() for measured in (27.3, 99))
    assert first == second and first["text/plain"] == UNLOCKED and "\n" not in UNLOCKED
    assert "<img" not in first["text/html"]


def test_a_number_is_locked_drawn_and_compared() -> None:
    asked = ask_speed()
    asked.answer.value = 100
    asked.lock.click()
    assert asked.answer.disabled and asked.lock.disabled and "100×" in asked.status.value
    shown = reveal("03.speed", 25)
    assert shown.text == "You predicted 100×; measured 25×: 4 times too high."
    assert shown.picture is not None
    marks = [line.get_xdata()[0] for line in shown.picture.axes[0].lines[1:]]
    assert marks == [100, 25]
    html = shown._repr_mimebundle_()["text/html"]
    assert shown.text in html and '<img src="data:image/png;base64,' in html


def test_a_count_is_locked_in_as_a_whole_number() -> None:
    asked = predict("00.rows", "How many rows?", slider=(1, 310), unit="rows", whole=True)
    asked.answer.value = 17.6
    assert asked.answer.readout_format == ",.0f"
    asked.lock.click()
    assert asked.answer.value == 18 and "18 rows" in asked.status.value
    assert reveal("00.rows", 25).text == "You predicted 18 rows; measured 25 rows: 1.4 times too low."


def test_too_low_near_and_linear() -> None:
    asked = predict("07.share", "Which share?", slider=(0, 100), log=False, unit="%")
    assert asked.answer.value == 0  # a start in the middle would be a hint
    asked.lock.click()
    assert "Move the slider first" in asked.status.value and not asked.answer.disabled
    asked.answer.value = 50
    asked.lock.click()
    assert reveal("07.share", 80).text == "You predicted 50%; measured 80%: 1.6 times too low."
    assert reveal("07.share", 52).text == "You predicted 50%; measured 52%: within a tenth."
    assert reveal("07.share", 0).text == "You predicted 50%; measured 0%."


def test_a_measurement_outside_the_scale_is_still_in_the_picture() -> None:
    asked = ask_speed()
    asked.answer.value = 40
    asked.lock.click()
    axes = reveal("03.speed", 9000).picture.axes[0]
    assert axes.get_xlim()[1] >= 9000
    assert number_line(2, 9000, asked.question, "").axes[0].texts[1].get_ha() == "right"


def test_choices() -> None:
    asked = predict("04.broken", "How many are broken?", choices=["two", "three"])
    asked.lock.click()
    assert "Choose one first" in asked.status.value and not asked.lock.disabled
    asked.answer.value = "two"
    asked.lock.click()
    assert reveal("04.broken", "three").text == "Measured: **three** (you predicted: two)."
    assert reveal("04.broken", "two").text == "Measured: **two** (as you predicted)."
    with pytest.raises(ValueError, match="not one of the choices"):
        reveal("04.broken", "four")


def test_the_fallback_shows_the_question_and_its_choices() -> None:
    data, _ = predict("04.broken", "How many `loops`?", choices=["two", "<three>"])._repr_mimebundle_()
    assert ">loops</code>" in data["text/html"] and "<li>&lt;three&gt;</li>" in data["text/html"]
    assert data["text/plain"] == "[widget] Predict: How many `loops`? (run this cell to use it)"


def test_kept_in_the_work_folder_for_another_kernel(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask_speed()
    asked.answer.value = 100
    asked.lock.click()
    reveal("03.speed", 27.5)
    assert [p.name for p in (work / ".kvlab").iterdir()] == ["03.speed.json"], "no temporary file stays"
    monkeypatch.setattr(memory, "_kept", {})  # another kernel
    again = ask_speed()
    assert (
        again.answer.disabled and again.answer.value == pytest.approx(100) and "earlier" in again.status.value
    )
    (entry,) = predictions()
    assert (entry["id"], entry["value"], entry["measured"]) == ("03.speed", 100, 27.5)
    assert forget("03.") == 1 and predictions() == [] and not ask_speed().lock.disabled


def test_a_question_that_changed_is_asked_again(work: Path) -> None:
    ask_speed().lock.click()
    assert not predict("03.speed", "Another question?", choices=["a", "b"]).lock.disabled


def test_a_folder_called_work_is_found_and_others_keep_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask_speed()
    asked.answer.value = 40
    asked.lock.click()
    assert "as long as this kernel runs" in asked.status.value and not list(tmp_path.iterdir())
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    again = ask_speed()
    again.answer.value = 50
    again.lock.click()
    assert (tmp_path / "work" / ".kvlab" / "03.speed.json").is_file()


def test_a_damaged_file_counts_as_nothing(work: Path) -> None:
    (work / ".kvlab").mkdir(parents=True)
    (work / ".kvlab" / "03.speed.json").write_text('{"value": 1')
    assert memory.recall("03.speed") is None and not ask_speed().lock.disabled
    (work / ".kvlab" / "03.speed.json").write_text(json.dumps([1]))
    assert memory.recall_all() == {}


def test_a_disk_that_can_not_be_written_does_not_stop_the_lesson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KVLAB_WORK", str(tmp_path / "file"))
    asked = ask_speed()
    asked.answer.value = 40
    asked.lock.click()
    assert asked.lock.disabled and reveal("03.speed", 2).picture is not None


@pytest.mark.parametrize("id", ["3.speed", "03", "03.Speed", "../03.x", "03.a/b"])
def test_ids_are_checked(id: str) -> None:
    with pytest.raises(ValueError, match="two digits"):
        predict(id, "?", choices=["a"])


@pytest.mark.parametrize(
    "kind", [{}, {"choices": ["a"], "slider": (1, 2)}, {"slider": (2, 1)}, {"slider": (0, 1)}]
)
def test_questions_are_checked(kind: dict) -> None:
    with pytest.raises(ValueError):
        predict("03.x", "?", **kind)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (27.34, "×", "27.3×"),
        (1024, "×", "1,024×"),
        (0.5, "ms", "0.5 ms"),
        (5e7, "B", "5.0e+07 B"),
        (0, "", "0"),
    ],
)
def test_numbers_for_people(value: float, unit: str, text: str) -> None:
    assert with_unit(value, unit) == text
