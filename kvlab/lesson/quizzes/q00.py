"""Quiz of lesson 00."""

from __future__ import annotations

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "You pass 5 ids to a model that knows 49,152 tokens. What comes back for this one text?",
        {
            "5 rows of 49,152 scores": "One row after each id, one score for each token that could follow it.",
            "one row of 49,152 scores": "There is a row for every id given, not only for the last; "
            "writing text uses the last one.",
            "5 ids": "Ids are made from the scores, by us: the model returns scores.",
            "the next word": "It returns scores; choosing an id from them and turning it into text is your code.",
        },
        answer="5 rows of 49,152 scores",
    ),
    Item(
        "You generate the same text without and with a cache. What is different?",
        {
            "the work, not the text": "The cache keeps keys and values that would be computed again: "
            "same numbers, fewer rows.",
            "the text, not the work": "You saw equal ids, and 12 times fewer rows computed.",
            "both": "The ids were equal, all of them.",
            "neither": "The ids were equal, but 310 rows of work became 25.",
        },
        answer="the work, not the text",
    ),
    Item(
        "With a cache that holds 100 tokens you choose token 101. How many token rows does the model compute "
        "to choose token 102?",
        {
            "1": "Only token 101 is new to the cache; what it needs of the first 100 is read, not computed.",
            "101": "That is naive decoding: everything again.",
            "100": "The first 100 are in the cache already.",
            "0": "Token 101 itself has not been through the model yet.",
        },
        answer="1",
    ),
]
