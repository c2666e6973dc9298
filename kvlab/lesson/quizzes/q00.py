"""Quiz of lesson 00."""

from __future__ import annotations

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "You pass 5 ids to a model that knows 49,152 tokens. What comes back for this one text?",
        {
            "5 rows of 49,152 scores": "One row after each id, one score for each token that could follow.",
            "one row of 49,152 scores": "Every id given has a row; writing text uses the last one.",
            "5 ids": "The model returns scores. Ids are chosen from them, by your code.",
            "the next word": "The model returns scores. Choosing an id and decoding it is your code.",
        },
        answer="5 rows of 49,152 scores",
    ),
    Item(
        "You generate the same text without and with a cache. What is different?",
        {
            "the work, not the text": "The cache keeps what would be computed again: same ids, fewer rows.",
            "the text, not the work": "The ids were equal, and 310 rows of work became 25.",
            "both": "The ids were equal, all of them.",
            "neither": "The ids were equal, but 310 rows of work became 25.",
        },
        answer="the work, not the text",
    ),
    Item(
        "A cache holds 100 tokens, and you have just chosen token 101. "
        "How many rows does the model compute to choose token 102?",
        {
            "1": "Only token 101 is new to the cache. What it needs of the first 100 is read, not computed.",
            "101": "That is what happens without a cache: everything again.",
            "100": "The first 100 are in the cache already.",
            "0": "Token 101 itself has not been through the model yet.",
        },
        answer="1",
    ),
]
