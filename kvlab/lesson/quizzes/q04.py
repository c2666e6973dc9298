"""The quiz of lesson 04."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A model appends all that it is given. A loop passes the prompt of 10 tokens, then twice the whole "
        "text, each time one token longer. How many entries does the cache hold?",
        {
            "33": "10, then 11 more, then 12 more. The model now reads the prompt three times in a row.",
            "12": "So many tokens has the text. But this cache cannot know that most are there already.",
            "30": "Three times the prompt; the two new tokens went in, too, one of them twice.",
        },
        answer="33",
    ),
    Item(
        "x-transformers, default contract, a model without positions: with the last token only, its logits "
        "are exact. What does that show?",
        {
            "the cached tokens are seen all the same": "They are in the cache. What goes wrong in other "
            "models is where the new token is put.",
            "such a model needs no earlier tokens": "It attends to them as any other does: take the cache "
            "away, and the logits change.",
            "the last token is always enough": "With rotary or learned positions it lands in a wrong place, "
            "unless the library is told.",
        },
        answer="the cached tokens are seen all the same",
    ),
    Item(
        "A row of a batch has 8 padding tokens on its left. The mask hides them, but they are counted: each "
        "of the row's tokens sits 8 positions too far. The model has rotary positions. What happens?",
        {
            "nothing but rounding": "Scores depend on distances, and all of them stay. A table of learned "
            "positions would give other logits.",
            "the row is wrong by 8 positions": "Only if the tokens of the row disagree with each other; here "
            "all moved together.",
            "the row attends to the padding": "That is what the mask prevents, whatever the positions.",
        },
        answer="nothing but rounding",
        back="02",
    ),
]
