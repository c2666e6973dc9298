"""Quiz of lesson 02."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Keys and values of 50 tokens are kept, positions 0–49. Token number 51 comes. Which of these "
        "changes nothing but rounding?",
        {
            "all 51 positions are counted from 900": "Yes: every distance stays what it was, so every score "
            "does.",
            "the new token alone gets position 0": "No: all kept keys now seem to lie ahead of it. In this "
            "lesson the text turned into nonsense.",
            "the new token alone gets position 51, not 50": "No: every distance to the kept keys is too "
            "large by one. In this lesson a logit moved by about 2, though the text stayed the same.",
        },
        answer="all 51 positions are counted from 900",
    ),
    Item(
        "Llama 3 8B has 32 query heads and 8 KV heads. Which KV head does query head 7 read?",
        {
            "KV head 1": "Yes: four neighbours share one, so it is 7 // 4 = 1.",
            "KV head 7": "That is 7 % 8, cards dealt out one by one. Neighbours share: 7 // 4 = 1.",
            "KV head 0": "That is 7 // 8. Divide by the size of a group (32 // 8 = 4), not by the number of "
            "groups: 7 // 4 = 1.",
        },
        answer="KV head 1",
    ),
    Item(
        "`lm(ids)` on 12 tokens gives logits `[1, 12, 49152]`. Which row chooses the next token?",
        {
            "the last of the 12": "Yes: row 11 scores all 49,152 tokens for the place after the text. The "
            "rows before it score places that are already filled.",
            "the mean of the 12": "No: each row is about the place after its own token. Only the last row "
            "is about the end of the text.",
            "the first of the 12": "No: row 0 scores what may follow the first token, having seen nothing "
            "else.",
        },
        answer="the last of the 12",
        back="00",
    ),
]
