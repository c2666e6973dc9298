"""The quiz of lesson 05."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A test passes a prompt in one call and then ten single tokens. All logits are right. Which mistake "
        "can the step still have?",
        {
            "positions that restart in every call": "The first single token would be at position 0: seen.",
            "no causal mask inside a later chunk": "A single token has nobody behind it to look "
            "at. Only a later call of several tokens shows this mistake.",
            "none: every token was compared": "Every token was, but not every way to pass it.",
        },
        answer="no causal mask inside a later chunk",
    ),
    Item(
        "With a cache in bfloat16 some logits differ by 0.1 from full recompute. In float64 they differ by "
        "less than 1e-12. What is it?",
        {
            "rounding": "A mistake does not know the precision; rounding shrinks with it.",
            "a mistake that bfloat16 makes worse": "Then some of it would be left in float64.",
            "impossible to say": "The rerun in float64 has said it.",
        },
        answer="rounding",
    ),
    Item(
        "Why may a cache keep the keys and values of a text when another text begins with it?",
        {
            "they depend on the tokens up to theirs only": "Causal attention: what comes later cannot have "
            "changed them.",
            "keys and values do not depend on the text": "They do, on all of it up to their own token.",
            "the positions are the same": "They are, but that alone is not enough: without the causal mask "
            "the entries would differ.",
        },
        answer="they depend on the tokens up to theirs only",
        back="03",
    ),
]
