"""The quiz of lesson 06."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "With top-p .9, the temperature goes from 1 to 1.5. The filter now keeps",
        {
            "more tokens, often thousands": "The temperature comes first and flattens the distribution, so "
            "many more tokens are needed to reach .9.",
            "as many as before": "That would be so if the filter came first, as in x-transformers. In kvlab "
            "and transformers the temperature does.",
            "fewer tokens": "A flatter distribution needs more tokens for the same sum.",
        },
        answer="more tokens, often thousands",
    ),
    Item(
        "Same model, float32, same seed, same settings. With and without a cache the texts differ from the "
        "third token on. What do you do first?",
        {
            "feed both the same tokens and compare the logits": "That takes sampling out of it. A bug shows "
            "at the first wrong position, thousands of times above rounding; float64 settles what is left.",
            "switch to greedy decoding": "Greedy sees the likeliest token alone. In this lesson it printed "
            "the same text while logits were wrong by more than 2.",
            "lower the temperature": "It makes a difference rarer to see, and leaves it where it is.",
        },
        answer="feed both the same tokens and compare the logits",
    ),
    Item(
        "A loop passes only the newest token, beside a cache of 40, to a library whose contract is the whole "
        "sequence. Rotary positions. What goes wrong?",
        {
            "the token gets a wrong position": "The library counts positions from what it is passed: one "
            "token is position 0. The context itself is in the cache.",
            "the model cannot see the earlier tokens": "It can: their keys and values are in the cache. With "
            "no positions at all the same loop is exact.",
            "nothing, if a seed is fixed": "A seed fixes the random numbers. The logits are wrong all the "
            "same.",
        },
        answer="the token gets a wrong position",
        back="04",
    ),
]
