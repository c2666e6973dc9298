"""The quiz of lesson 14."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Half of each vector's 64 float16 numbers stay, behind a bitmap. How many bytes does a vector take?",
        {
            "64": "That is the numbers alone. Nobody could say to which channels they belong.",
            "72": "64 bytes of numbers and 8 bytes of bitmap: 56 % of the 128 bytes, not 50 %.",
            "96": "That is CSR: a byte beside each number. It is smaller only below one number in eight.",
        },
        answer="72",
    ),
    Item(
        "Min/max codes of 4 bits, in small groups, go through a Huffman coder. Why does it save so little?",
        {
            "Huffman is a poor coder": "It stays within a few hundredths of a bit of the entropy here.",
            "every group is stretched over all levels": "So all 16 codes are in use and none is very "
            "frequent. With larger groups, or a bound on the error, the middle ones are.",
            "the tables are too large": "A table of 16 lengths takes 8 bytes for thousands of codes.",
        },
        answer="every group is stretched over all levels",
    ),
    Item(
        "KIVI takes one scale for each channel of the keys, but one for each token of the values. Why?",
        {
            "keys are turned by rotary embedding": "That mixes pairs of channels, loud or not.",
            "some channels of the keys are large for all tokens": "In a group by token they would take "
            "up all levels. By channel they are among themselves. Values have no such channels.",
            "values are read less often": "Each step reads both.",
        },
        answer="some channels of the keys are large for all tokens",
        back="12",
    ),
]
