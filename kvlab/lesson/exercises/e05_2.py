"""05.2: which earlier tokens does a step read? Change one at a time, and see the logits move."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "05.2",
    "Who is read?",
    function="reads",
    stub="""
def reads(step, tokens, vocab):
    # step as in 05.1; tokens [1, total], ids from 0 to vocab - 1
    # pass all tokens but the last in one call, then the last one
    # return the list of those places, 0 to total - 2, that the last
    # call reads: put another token there, and its logits move
    ...
""",
)


class Toy:
    """A call's logits depend on its own token, and on those of the first call that stand at `seen`."""

    def __init__(self, table, seen):
        self.table, self.seen = table, seen

    def step(self, tokens, state=None):
        if state is None:
            return self.table[tokens].cumsum(dim=1).sin(), tokens
        places = [i for i in self.seen if i < state.shape[1]]
        past = self.table[state[:, places]].sum(dim=1, keepdim=True)
        logits = (past + 30 * self.table[tokens]).sin() * 0.01 + self.table[tokens]
        return logits, torch.cat((state, tokens), 1)


@EXERCISE.inputs
def inputs(draw: Draw):
    total = draw.integer(5, 8)
    seen = [i for i in range(total - 1) if draw.integer(0, 1)]
    return Toy(draw.normal(11, 5), seen or [0]).step, draw.integers(0, 11, 1, total), 11


def last(step, tokens):
    _, state = step(tokens[:, :-1], None)
    return step(tokens[:, -1:], state)[0]


def variant(step, tokens, vocab, moved=lambda a, b: not torch.equal(a, b), look=last, keep=False, places=-1):
    before, read, text = look(step, tokens), [], tokens.clone()
    for i in range(tokens.shape[1] + places):
        text = text if keep else tokens.clone()
        text[0, i] = (text[0, i] + 1) % vocab
        read += [i] if moved(before, look(step, text)) else []
    return read


@EXERCISE.alternative
def alternative(step, tokens, vocab):
    def logits(i, to):
        changed = [to if j == i else int(token) for j, token in enumerate(tokens[0])]
        return last(step, torch.tensor([changed]))

    others = [(int(token) + 5) % vocab for token in tokens[0, :-1]]
    return [i for i, to in enumerate(others) if float((logits(i, to) - logits(-1, 0)).abs().max()) > 0]


MISTAKES = {
    "Those are the places that are not read: there the logits stay.": {"moved": torch.equal},
    "Compare the logits, not the most likely token: a small influence is an influence.": {
        "moved": lambda a, b: not torch.equal(a.argmax(-1), b.argmax(-1))
    },
    "Put a changed token back before you change the next one.": {"keep": True},
    "The last token is no earlier one: of course its own call depends on it.": {"places": 0},
    "Look at the last call's logits only; those of the first call read all that is before them.": {
        "look": lambda step, tokens: torch.cat((step(tokens[:, :-1], None)[0], last(step, tokens)), dim=1)
    },
}
for message, how in MISTAKES.items():
    EXERCISE.mistake(message)(lambda *given, how=how: variant(*given, **how))
