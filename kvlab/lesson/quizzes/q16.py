"""The quiz of lesson 16."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A text has 1,000 tokens, of which H2O has left 128 in the cache. To which position is the next "
        "token's query turned?",
        {
            "1,000": "Its place in the text. The entries that stayed were turned to their own positions, up "
            "to 999, and what attention needs are the true distances.",
            "128": "That is the stored length. Every distance then comes out 872 too small or even negative: "
            "the mistake of this lesson's break-it section.",
            "either": "Only if the keys that stayed are turned anew to 0 … 127, too. StreamingLLM does that; "
            "H2O does not.",
        },
        answer="1,000",
    ),
    Item(
        "A report says: “compressed to a quarter, the model still answers all questions about the text.” "
        "What do you ask first?",
        {
            "was the question in the prompt?": "Yes. A policy that saw it could keep just the answer. The "
            "same cache may fail the next question.",
            "how large is the KL?": "It can be small while facts are lost: most next words need "
            "none of them.",
            "how many layers has the model?": "That says nothing about what was kept.",
        },
        answer="was the question in the prompt?",
    ),
    Item(
        "Lesson 14 drops numbers within each entry, this one drops entries. After which can a later query "
        "still find a token that nobody looked at before?",
        {
            "after lesson 14's": "Every token still has its entry, less exact. It can be found late.",
            "after this one's": "What nobody looked at is what goes, and nothing brings it back.",
            "after both": "An evicted token has no entry: no query will ever see it again.",
        },
        answer="after lesson 14's",
        back="14",
    ),
]
