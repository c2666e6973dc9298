"""The quiz of lesson 09."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A step over a static cache of 4,096 slots that holds 100 tokens. How many keys does it read?",
        {
            "4,096": "All slots, under a mask: that is the price of a shape that never changes.",
            "100": "A growing cache would read 100. A fixed shape means that the length is not in the shape.",
            "1": "The new key is written; the query needs all keys.",
        },
        answer="4,096",
    ),
    Item(
        "You replace the growing cache by a static one and change nothing else. What happens to a step?",
        {
            "it takes about as long": "Recorded here: 18.6 ms after 18.8 ms. The gain comes from what fixed "
            "shapes allow: compiling the step.",
            "it gets twice as fast": "Most of an append was cheap before; the operations are as many.",
            "it computes fewer FLOPs": "Rather more: scores of free slots are computed, too.",
        },
        answer="it takes about as long",
    ),
    Item(
        "After 2,048 tokens a cached step is hardly slower than after 16. Why?",
        {
            "the weights are read at every step": "538 MB of them, beside 94 MB of keys and values. That "
            "also limits what compiling can gain.",
            "attention is O(1) with a cache": "It is O(n): every cached key is read.",
            "the old keys are not read": "Each of them is, at every step.",
        },
        answer="the weights are read at every step",
        back="03",
    ),
]
