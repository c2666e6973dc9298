"""The quiz of lesson 11."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "A source of 100 words is translated into 80. Both caches are used. How many source rows do the "
        "cross keys of one layer take in all?",
        {
            "100": "Once, in the first step. The 79 later steps read them.",
            "8,000": "That is without a cross cache: all 100 again for every word.",
            "180": "The target's 80 rows go into the self-attention; the cross keys are of the source alone.",
        },
        answer="100",
    ),
    Item(
        "Beam search with 4 beams for one source. Which part of the cache must be reordered when the beams "
        "change places?",
        {
            "both": "It does no harm, but the cross part is copied for nothing: all four rows hold the same "
            "source.",
            "self": "The beams have said different words, so their self entries differ. The source is the "
            "same for all.",
            "cross": "Its four rows are equal. The words said differ, and they are in the self part.",
        },
        answer="self",
    ),
    Item(
        "A compiled step writes into fixed shapes. Which part of a translator's cache has a shape that never "
        "changes after the first step, whatever the store?",
        {
            "self": "It grows by an entry a word, unless it is preallocated.",
            "cross": "It has as many slots as the source has words. Only a new source changes it.",
            "neither": "The cross part is filled once and then only read.",
        },
        answer="cross",
        back="09",
    ),
]
