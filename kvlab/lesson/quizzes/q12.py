"""The quiz of lesson 12."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Values in 2 bits, groups of 64 channels, a float16 scale and minimum for each group. How many bits "
        "does a number cost?",
        {
            "2": "Codes alone cannot be read back.",
            "2.25": "A scale alone would be 16/64. The minimum is as large again.",
            "2.5": "2 + 32/64. Groups of 32 would make it 3.",
        },
        answer="2.5",
    ),
    Item(
        "Keys have a few channels that are loud in every token. Why do keys want a scale for each channel?",
        {
            "the loud channel sets the scale for itself only": "By token it would share a scale with quiet "
            "channels, and their few levels would lie far apart.",
            "there are fewer channels than tokens": "The number of groups is the same: one for each 32 "
            "numbers, along whichever axis.",
            "rotary positions act on channels": "They do, but loud channels are there before rotary "
            "embedding, too.",
        },
        answer="the loud channel sets the scale for itself only",
    ),
    Item(
        "A static cache has 4,096 slots and holds 512 tokens. Its entries are written as int8 instead of "
        "float32. What happens to the bytes that it keeps from everybody else?",
        {
            "about a quarter as many": "All 4,096 slots are allocated, one byte a number, and scales. "
            "What is unused shrinks with what is used.",
            "nothing": "The codec decides how wide a slot is, used or not.",
            "they fall to what 512 tokens need": "That would be a store that grows. Capacity and bits are "
            "two knobs.",
        },
        answer="about a quarter as many",
        back="08",
    ),
]
