"""Quiz of lesson 02."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Keys and values of 50 tokens are kept, positions 0–49. A new token comes, whose place is 50. Which "
        "of these changes nothing but rounding?",
        {
            "all 51 positions are counted from 900": "Every distance stays what it was, so every score does.",
            "the new token alone gets position 0": "All kept keys now seem to lie ahead of it. In this "
            "lesson the text turned into nonsense.",
            "the new token alone gets position 51": "Every distance to the kept keys is too large by one. In "
            "this lesson a logit moved by 2, though the text stayed the same.",
        },
        answer="all 51 positions are counted from 900",
    ),
    Item(
        "Llama 3 8B has 32 query heads and 8 KV heads. Which KV head does query head 7 read?",
        {
            "KV head 1": "Four neighbours share one, so it is 7 // 4 = 1.",
            "KV head 7": "That is 7 % 8, cards dealt out one by one. Neighbours share: 7 // 4 = 1.",
            "KV head 0": "That is 7 // 8. Divide by the size of a group (32 // 8 = 4), not by the number of "
            "groups: 7 // 4 = 1.",
        },
        answer="KV head 1",
    ),
    Item(
        "猫在垫子上。 has 6 characters, and this model's tokenizer makes 10 tokens of it. How many positions "
        "does it take?",
        {
            "10": "Positions count tokens, whatever they stand for; so do the entries of a cache.",
            "6": "The model never sees characters, only tokens: 10 of them.",
            "7": "That is the length of the English sentence, in tokens.",
        },
        answer="10",
        back="00",
    ),
]
