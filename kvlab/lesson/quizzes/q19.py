"""The quiz of lesson 19."""

from kvlab.lesson.quizzing import Item

QUIZ = [
    Item(
        "What is an indexer trained to imitate?",
        {
            "the model's own attention, all heads together": "Its softmax is pulled towards their sum, so "
            "one choice serves all heads of a layer.",
            "the next token": "That would train the model. The indexer only learns where its attention goes.",
            "the values": "It never sees them: it ranks entries by queries and keys.",
        },
        answer="the model's own attention, all heads together",
    ),
    Item(
        "In which layers does learning pay most here?",
        {
            "early ones, whose attention is spread over the text": "Sinks and recent tokens hold little of "
            "it there, and the indexer nearly all that a tenth can hold.",
            "late ones": "There sinks and recent tokens already hold most of the attention.",
            "all alike": "The gain over sinks and recent tokens differs by a factor of ten and more.",
        },
        answer="early ones, whose attention is spread over the text",
    ),
    Item(
        "A window without its first tokens makes SmolLM2 fail. Why?",
        {
            "heads that have nothing to say attend to the first tokens": "The sink: taken away, its weight "
            "falls on tokens that mean something.",
            "the first tokens hold the topic": "It happens with any first token, a newline as well.",
            "positions shift": "They need not: the other entries keep theirs.",
        },
        answer="heads that have nothing to say attend to the first tokens",
        back="17",
    ),
]
