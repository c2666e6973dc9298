"""The quiz of lesson 13."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A rotation is undone exactly when it is read back. Why does it change the error at all?",
        {
            "the step is smaller": "The step follows the largest number of a group. Rotation shares it out "
            "among all channels, so the largest becomes smaller, and with it the step.",
            "the vectors are shorter": "Lengths survive a rotation. That is why scores survive it, too.",
            "fewer bits are stored": "As many as before: the same codes and scales, and one matrix for all.",
        },
        answer="the step is smaller",
    ),
    Item(
        "Keys per channel, in groups of 32 tokens: why may it help to store them before rotary embedding?",
        {
            "channels stay steady": "Rotary turns a pair of channels by another angle at each position, so a "
            "channel that was steady along the text swings up and down; its range becomes its step.",
            "nothing is rotated any more": "It is, at every read: that is the price.",
            "keys get shorter": "Rotary leaves lengths as they are.",
        },
        answer="channels stay steady",
    ),
    Item(
        "A translator reads a source of 30 words and writes 30 words. Its cross entries are to be encoded in "
        "4 bits. How often must they be encoded?",
        {
            "once": "They depend on the source alone, so they are the same in every step: no residual window "
            "has to slide over them.",
            "30 times": "That holds for its own entries, which grow by one at each word.",
            "never, they are exact": "A codec writes both parts; it is the first step that still sees the "
            "source exactly.",
        },
        answer="once",
        back="11",
    ),
]
