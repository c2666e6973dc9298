"""The quiz of lesson 20."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Quest reads an eighth of a cache. How many bytes does it free?",
        {
            "none": "What is not read now may be read later. Its bounds even come on top.",
            "seven eighths": "That is what an eviction would free. A selection only reads less.",
            "an eighth": "It frees nothing: every entry stays.",
        },
        answer="none",
    ),
    Item(
        "Why does Quest save so little with KIVI in this package?",
        {
            "its keys are coded in blocks of 32 tokens": "A scale is shared by 32 tokens, so single entries "
            "cannot be read; the package then decodes all keys. Codes by token can be gathered.",
            "Quest's bounds need the exact keys": "They are made once for each page and kept.",
            "four bits are too few to choose": "The bounds choose, and they are not coded.",
        },
        answer="its keys are coded in blocks of 32 tokens",
    ),
    Item(
        "Why is reading pages faster than reading as many single tokens?",
        {
            "neighbours lie together in memory": "A page is one piece, copied at once; single tokens are "
            "many small reads.",
            "a page has fewer bytes": "As many entries, as many bytes.",
            "pages need no scores": "They do: their bounds are read and multiplied with the query.",
        },
        answer="neighbours lie together in memory",
        back="18",
    ),
]
