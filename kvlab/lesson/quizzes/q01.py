"""Quiz of lesson 01."""

from __future__ import annotations

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Six tokens, causal attention. What does the first token's own row of weights look like?",
        {
            "1, then five zeros": "It may look at itself only, and a row adds up to 1.",
            "six times 1/6": "That would be no mask and equal scores: five of these keys are its future.",
            "all zeros": "A softmax over at least one key always adds up to 1.",
            "it depends on the text": "All later rows do. This one has a single key left, whatever the scores.",
        },
        answer="1, then five zeros",
    ),
    Item(
        "A head gives 95 % of its attention to the first token of every text. What follows?",
        {
            "little: that may be a sink": "A row must add up to 1. Where a head has nothing to fetch it parks "
            "its weight on the first token, whose value is short.",
            "the first word matters most": "You changed the first word and the share stayed: it is the place.",
            "the head is broken": "Most heads of this model do so for most queries, and it works.",
            "silencing it does nothing": "You can't tell from where it looks: silence it and measure.",
        },
        answer="little: that may be a sink",
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
