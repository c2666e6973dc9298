"""Quiz of lesson 01."""

from __future__ import annotations

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A head gives 95 % of its attention to the first token, whatever the text. What do you suspect?",
        {
            "a sink": "Weights must add up to 1. A head with nothing to fetch parks them on the first token, "
            "whose value is short.",
            "the first word matters most": "You changed that word and the share stayed: it is the place.",
            "the head is broken": "103 of the 270 heads give it more than half on the long sentence, "
            "and the model works.",
            "a missing mask": "The first token is everybody's past: the mask allows it.",
        },
        answer="a sink",
    ),
    Item(
        "A head looks at the right answer with weight 0.7. What does it do for that answer?",
        {
            "unknown until you silence it": "24.4 looked at ` blue` like that, and without it ` blue` rose.",
            "it raises it": "So did 26.3 on one sentence; 24.4 looked just as hard and lowered it.",
            "it lowers it": "So did 24.4; 26.3 looked harder and raised it.",
            "nothing": "You can't tell from a map: it shows where values come from, not what they say.",
        },
        answer="unknown until you silence it",
    ),
    Item(
        "The last row of the logits scores which token?",
        {
            "the one after the last given": "Row t scores what follows token t.",
            "the last one given": "That one is known already; its row scores what comes next.",
            "the first one": "The first row scores the second token.",
            "all tokens of the text": "Each row speaks of one place only: the next.",
        },
        answer="the one after the last given",
        back="00",
    ),
]
