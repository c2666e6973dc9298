"""The quiz of lesson 15."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A paper says that 16 of 64 directions hold 95 % of the keys' energy. What do you ask first?",
        {
            "was the mean taken off, and whose text is it": "Keys lie far from zero: their mean alone "
            "holds most of the squares. And on text that the basis has not seen, less comes back.",
            "in how many bits": "That changes the bytes. The energy is a matter of directions.",
            "how long the text is": "It matters for a basis of the text's own, but not most here.",
        },
        answer="was the mean taken off, and whose text is it",
    ),
    Item(
        "Why does MLA cache a second, small key beside the latent?",
        {
            "latents are too short for all heads": "They hold what all heads need, but for one thing "
            "that does not fit in.",
            "a rotation would stand between query and up-projection": "It differs from token to token, so no "
            "one absorbed query could serve them all. The rotated key is therefore not made from the latent.",
            "values need it": "They are not rotated, and come from the latent alone.",
        },
        answer="a rotation would stand between query and up-projection",
    ),
    Item(
        "A rotation spreads loud channels over all before 4 bits. When does it cost nothing at decode time?",
        {
            "always": "As a matrix of its own it is a product more at each read.",
            "when a matrix is there anyway that it can be multiplied into": "Into a basis, say, "
            "or a weight: the product is computed once.",
            "never": "Two matrices that always come one after the other are one matrix.",
        },
        answer="when a matrix is there anyway that it can be multiplied into",
        back="13",
    ),
]
