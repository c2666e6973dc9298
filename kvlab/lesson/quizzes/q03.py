"""The quiz of lesson 03."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A prompt of 1,000 tokens is cached. You change token 990. Which entries can you keep?",
        {
            "positions 0–989": "They depend on tokens 0–989 alone, because attention is causal.",
            "all but position 990": "In every layer but the first, later keys and values moved, too: those "
            "tokens had attended to token 990.",
            "none": "What comes before position 990 cannot have seen the change.",
        },
        answer="positions 0–989",
    ),
    Item(
        "Two cached decode steps, one after 1,000 tokens and one after 100,000. What differs?",
        {
            "nothing: one token goes in": "One row goes through the weights, and that part is the same. But "
            "its query attends to every cached key.",
            "attention, and the bytes of the cache it reads": "Both are 100 times as large; the work on the "
            "weights is the same.",
            "everything, by the square of the length": "The square comes from adding up the steps of a naive "
            "generation, each as long as its text.",
        },
        answer="attention, and the bytes of the cache it reads",
    ),
    Item(
        "Without the entry of the very first token, the next words shift, though `The` says little. "
        "What do many heads use the first token for?",
        {
            "as a sink for attention": "The weights of a softmax add up to 1. A head with nothing to say "
            "puts them on the first token; take it away, and they land on other values.",
            "to count positions from": "Positions come from the rotary angles, which stay as they were.",
            "as a summary of the text": "It was computed before any other token: it cannot know them.",
        },
        answer="as a sink for attention",
        back="01",
    ),
]
