"""The quiz of lesson 07."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Two models have equally many weights and 32 layers with head_dim 128. A has 32 KV heads, B has 8. "
        "How do their caches compare?",
        {
            "A's is four times as large": "Keys and values exist for KV heads only, and there are four times "
            "as many of them.",
            "they are equal: the weights are": "The weights do not enter the formula: layers, KV heads, "
            "head_dim, tokens, batch and bits do.",
            "B's is four times as large": "Fewer KV heads, fewer keys and values.",
        },
        answer="A's is four times as large",
    ),
    Item(
        "A decode step with 16 sequences instead of one, each after 8,192 tokens. What does it read?",
        {
            "the weights once, and 16 caches": "All rows go through the same weights, so these are shared. "
            "But each query attends to the keys and values of its own text.",
            "16 times everything": "The weights are read once for all rows of the step.",
            "the weights once, and one cache": "No two sequences have the same keys and values (unless they "
            "share a beginning, and the implementation knows it).",
        },
        answer="the weights once, and 16 caches",
    ),
    Item(
        "Looking back: with a cache, a step of 1,024 token rows becomes one row, but its time fell far less "
        "than a thousandfold. Why?",
        {
            "both steps read all weights": "The naive step shares that reading among its rows. The cached "
            "step pays it for one row: it is bound by memory.",
            "the cache must be searched": "Its place is known; nothing is searched.",
            "softmax does not get cheaper": "It does: one row of scores instead of 1,024.",
        },
        answer="both steps read all weights",
        back="03",
    ),
]
