"""The quiz of lesson 08."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A prompt of 100 tokens, 50 tokens to generate, one at a time. What is the least capacity?",
        {
            "149": "The last new token is never fed back: 100 + 50 − 1.",
            "150": "One more than needed. The 50th new token is chosen from logits; its own key and value "
            "are never computed.",
            "50": "The prompt's entries take slots, too.",
        },
        answer="149",
    ),
    Item(
        "A cache is preallocated for 8,192 tokens. When does it hold fewer bytes than one that grows by "
        "doubling?",
        {
            "always": "At 8 tokens it holds 1,024 times as much.",
            "never": "After 4,097 tokens doubling may have room for 8,192, where a text of 5,000 needs a "
            "capacity of 5,000.",
            "when the length is known well": "Doubling may have reserved almost twice what is needed. A "
            "capacity near the true length is less; one far above it is more.",
        },
        answer="when the length is known well",
    ),
    Item(
        "One token after the other is cached by concatenation. The same text goes in twice as long. How does "
        "the total number of bytes copied change?",
        {
            "× 4": "Each append copies all that is there: n(n − 1)/2 in all. It is the sum of naive decoding "
            "once more, now of copies.",
            "× 2": "That holds for doubling, whose copies add up to about the final size.",
            "not at all": "That holds for the preallocated cache only, which copies nothing.",
        },
        answer="× 4",
        back="03",
    ),
]
