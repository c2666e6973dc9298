"""The quiz of lesson 17."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "BigBird reads random blocks. When is it decided which ones?",
        {
            "before the text": "They depend on positions and a seed: the same blocks for every text. Random "
            "is not dynamic.",
            "when a query comes": "That would be a dynamic method: the choice would look at the query.",
            "when the key was stored": "No key is looked at either: only its position counts.",
        },
        answer="before the text",
    ),
    Item(
        "A model has 30 layers, each with a window of 64 and no sinks. From how far back can something reach "
        "the newest token at all?",
        {
            "63 tokens": "That is one layer. The token 63 back has itself read 63 further back, one layer "
            "below.",
            "1,890 tokens": "30 × 63: each layer passes on what the one below has gathered. How much is left "
            "of it is another question.",
            "the whole text": "Nothing can come further than layers × (window − 1).",
        },
        answer="1,890 tokens",
    ),
    Item(
        "Low rank writes each entry in fewer numbers, a pattern reads fewer entries. Which of them makes "
        "`cache.nbytes` smaller?",
        {
            "low rank": "It stores less. A selection stores all: what is not read now may be read later.",
            "the pattern": "It drops nothing. It lowers what a step reads; only an eviction frees entries.",
            "both": "A selection leaves every entry where it is.",
        },
        answer="low rank",
        back="15",
    ),
]
