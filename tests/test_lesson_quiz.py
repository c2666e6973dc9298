"""Quizzes: each answer is explained at once; each lesson's quiz is complete."""

from __future__ import annotations

import pytest

from kvlab.lesson import Item, quiz
from kvlab.lesson.quizzing import quiz_ids

ITEMS = [
    Item("Who attends?", {"the new token": "Its `query`.", "all": "Only the last row."}, "the new token"),
    Item("How <many>?", {"1": "Too few.", "2": "Yes.", "3": "Too many."}, "2", back="01"),
]


def test_a_click_explains_that_answer() -> None:
    asked = quiz("03", ITEMS)
    assert [note.value for note in asked.notes] == ["", ""] and asked.score.value == ""
    asked.radios[0].value = "all"
    assert "<strong>No.</strong> Only the last row." in asked.notes[0].value
    assert "0 of 2 right" in asked.score.value and asked.notes[1].value == ""
    asked.radios[0].value = "the new token"
    asked.radios[1].value = "2"
    assert "<strong>Right.</strong> Its <code" in asked.notes[0].value
    assert "2 of 2 right" in asked.score.value
    asked.radios[0].value = None
    assert asked.notes[0].value == ""


def test_the_fallback_asks_but_does_not_answer() -> None:
    data, _ = quiz("03", ITEMS)._repr_mimebundle_()
    assert "Who attends?" in data["text/html"] and "How &lt;many&gt;?" in data["text/html"]
    assert "Only the last row" not in data["text/html"] and "Yes." not in data["text/html"]
    assert "(from lesson 01)" in data["text/html"]
    assert data["text/plain"] == "[widget] Quiz of lesson 03 (run this cell to use it)"


def test_the_order_is_shuffled_and_always_the_same() -> None:
    choices = {str(n): "because" for n in range(9)}
    item = Item("Which?", choices, "0")
    assert item.shown == Item("Which?", choices, "0").shown != list(choices)
    assert sorted(item.shown) == sorted(choices)


def test_mistaken_quizzes_are_refused() -> None:
    with pytest.raises(ValueError, match="not among the choices"):
        Item("Which?", {"a": "because"}, "b")
    with pytest.raises(LookupError, match="there is no quiz '99'"):
        quiz("99")


@pytest.mark.parametrize("lesson", quiz_ids())
def test_each_lessons_quiz_is_complete(lesson: str) -> None:
    items = quiz(lesson).items
    assert len(items) == 3
    for item in items:
        assert len(item.choices) >= 2 and all(len(text) > 10 for text in item.choices.values())
    assert len({item.question for item in items}) == 3
    if lesson >= "02":
        earlier = [item.back for item in items if item.back]
        assert earlier and all("00" <= back < lesson for back in earlier), "one item looks back"
