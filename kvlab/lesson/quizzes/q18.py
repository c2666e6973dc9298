"""The quiz of lesson 18."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "Top-k attention reads 32 of 1,024 entries. Keys and values are equally large. Which share of the "
        "cache has it read?",
        {
            "about 3 %": "That counts what is attended to. To find the 32, every key was scored.",
            "a little over half": "All keys to choose, then 32 values with their keys. An oracle is a "
            "yardstick, not a saving.",
            "all of it": "Values that were not chosen are never touched.",
        },
        answer="a little over half",
    ),
    Item(
        "Quest bounds a page by the smallest and largest number of every channel. It then skips a page that "
        "held the best key. How can that be?",
        {
            "the bound was too small": "It never is: no key of a page scores more than its bound.",
            "other pages had larger bounds": "A bound is only an upper limit. Pages of very different keys "
            "get large ones without a key that reaches them.",
            "the page was not whole": "Entries of a page that is not whole are always read.",
        },
        answer="other pages had larger bounds",
    ),
    Item(
        "H2O with a quarter of the entries, SparQ that reads an eighth. A question comes about something "
        "that no query has looked at so far. Who can still answer it?",
        {
            "SparQ": "It stores everything and chooses anew for each query. It pays in memory: nothing was "
            "freed.",
            "H2O": "What received no attention is what it dropped, and an eviction is for good.",
            "both alike": "They read few entries both, but only one of them still has the others.",
        },
        answer="SparQ",
        back="16",
    ),
]
