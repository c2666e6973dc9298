"""The quiz of lesson 10."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A ring of 8 slots for a window of 8. The token at position 21 has just been written. Which slot is "
        "it in, and what lay there before?",
        {
            "slot 5, position 13": "21 mod 8 = 5, and 8 tokens earlier the same slot was written.",
            "slot 7, position 14": "That is a cache which moves all entries by one: a copy for each token.",
            "slot 5, position 20": "Position 20 is in slot 4. The slot before it is the token before it.",
        },
        answer="slot 5, position 13",
    ),
    Item(
        "All 18 layers of Gemma 3 270M are given a window of 512. What stands 4,000 tokens back could still "
        "be passed on from layer to layer. What did the measurement say?",
        {
            "nothing of use arrives": "The path is there, 18 · 511 tokens long, but the model does not use "
            "it. Its full layers carry what is far.",
            "it arrives, a little weaker": "At the last token the change was less than a millionth.",
            "it cannot arrive at all": "It can: each layer reaches 511 tokens further. It is not used.",
        },
        answer="nothing of use arrives",
    ),
    Item(
        "A StaticCache of transformers is full. The next token raises an IndexError, which is caught. "
        "What now?",
        {
            "reset it, or make a larger one": "Layers before the one that failed have changed already, and "
            "their counters have moved on. There is no way back.",
            "go on: nothing was stored": "In Gemma 3 five sliding layers have dropped a token by then.",
            "the oldest token made room": "In the layers with a window, yes; in the full ones, no.",
        },
        answer="reset it, or make a larger one",
        back="08",
    ),
]
