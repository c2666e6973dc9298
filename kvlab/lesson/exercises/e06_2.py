"""06.2: a whole sampler."""

from kvlab.lesson.exercise import Draw, Exercise
from kvlab.sampling import keep_top_k, keep_top_p

EXERCISE = Exercise(
    "06.2",
    "Logits and one number in, a token out",
    function="sample",
    stub="""
def sample(logits, temperature, top_k, top_p, u):
    # logits: [vocab], u: one random number in [0, 1)
    # temperature, then top-k, then top-p, as the package does;
    # then walk through the tokens in order of id, adding up,
    # until the sum passes u -> that token's id
    ...
""",
    hint="The check calls `sample` with u = .0125, .0375, … .9875 and compares the 40 ids.",
)
GRID = [(i + 0.5) / 40 for i in range(40)]


@EXERCISE.inputs
def inputs(draw: Draw):
    return draw.normal(24), draw.one_of([0.5, 2.0]), draw.integer(7, 10), draw.one_of([0.6, 0.7])


@EXERCISE.run
def run(candidate, *given):
    ids = [candidate(*given, u) for u in GRID]
    return None if None in ids else [int(i) for i in ids]


def filtered(logits, temperature, top_k, top_p, order="tkp"):
    for name in order:
        if name == "t":
            logits = logits / temperature
        else:
            logits = keep_top_k(logits, top_k) if name == "k" else keep_top_p(logits, top_p)
    return logits.softmax(0)


def walk(probabilities, u):
    return min(int((probabilities.cumsum(0) <= u).sum()), len(probabilities) - 1)


@EXERCISE.alternative
def alternative(logits, temperature, top_k, top_p, u):
    for i, p in enumerate(filtered(logits.double(), temperature, top_k, top_p).tolist()):
        u -= p
        if u < 0:
            return i
    return len(logits) - 1


for message, order in (
    ("The filters came before the temperature: divide by it first, as the package does.", "kpt"),
    ("top-p came before top-k: it must see what top-k has left.", "tpk"),
    ("The temperature does nothing: divide the logits by it.", "kp"),
    ("top-p is missing: only top-k filters.", "tk"),
    ("top-k is missing: only top-p filters.", "tp"),
):
    EXERCISE.mistake(message)(lambda z, t, k, p, u, order=order: walk(filtered(z, t, k, p, order), u))


@EXERCISE.mistake("You multiplied by the temperature: a high one must flatten, so divide the logits.")
def multiplied(logits, temperature, *given):
    return walk(filtered(logits, 1 / temperature, *given[:2]), given[2])


@EXERCISE.mistake("Always the likeliest token: `u` decides where the walk ends.")
def greedy(logits, temperature, top_k, top_p, u):
    return int(logits.argmax())


@EXERCISE.mistake("You walked from the likeliest token down: a fine sampler, but this walk goes by id.")
def downwards(*given):
    ordered, order = filtered(*given[:4]).sort(descending=True)
    return int(order[walk(ordered, given[4])])
