"""03.1: one decode step of one head, with the cache that it keeps."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise(
    "03.1",
    "One step with a cache",
    function="step",
    stub="""
def step(q, k, v, keys, values):
    # q, k, v: [head_dim], the rows of the new token
    # keys, values: [tokens, head_dim], the cache so far
    # return out [head_dim], and both grown by one row
    ...
""",
    hint="The check starts with empty keys and values, [0, head_dim], and calls `step` token by token.",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    tokens, head_dim = draw.integer(3, 7), draw.one_of([4, 8])
    return tuple(draw.normal(tokens, head_dim) for _ in range(3))


@EXERCISE.run
def run(candidate, q, k, v):
    keys, values, outputs = k[:0], v[:0], []
    for rows in zip(q, k, v, strict=True):
        result = candidate(*rows, keys, values)
        if result is None:
            return None
        out, keys, values = result
        outputs.append(out)
    return [torch.stack(outputs), keys, values]


@EXERCISE.alternative
def alternative(q, k, v, keys, values):
    keys, values = torch.vstack([keys, k]), torch.vstack([values, v])
    return torch.nn.functional.scaled_dot_product_attention(q[None], keys, values)[0], keys, values


def pick(what, rows, row):
    row = row[None]
    grown, front = torch.cat((rows, row)), torch.cat((row, rows))
    return {"past": rows, "new": row, "grown": grown, "front": front}[what]


def variant(q, k, v, keys, values, seen="grown", kept="grown"):
    weights = (pick(seen, keys, k) @ q / q.shape[0] ** 0.5).softmax(0)
    return weights @ pick(seen, values, v), pick(kept, keys, k), pick(kept, values, v)


for message, *how in (
    ("Append first, then attend: the query does not see its own key and value.", "past", "grown"),
    ("The query attends to the new token alone: give it the cached keys and values too.", "new", "grown"),
    ("The new row takes the place of the cached ones: append it, or each step forgets.", "new", "new"),
    ("You return keys and values without the new row: the next step needs it.", "grown", "past"),
    ("The output is right, but the new row stands in front: append it at the end.", "front", "front"),
):
    EXERCISE.mistake(message)(lambda *given, how=how: variant(*given, *how))


@EXERCISE.mistake("You cached the query for the key: a query is used once, at its own step, never kept.")
def query_kept(q, k, v, keys, values):
    return variant(q, q, v, keys, values)


@EXERCISE.mistake("You joined along head_dim (dim 1); a cache grows along its tokens (dim 0).")
def wrong_axis(q, k, v, keys, values):
    return torch.cat((keys, k[None]), dim=1)


@EXERCISE.mistake("You left out the division by √head_dim: the weights come out too sharp.")
def unscaled(q, k, v, keys, values):
    return variant(q * q.shape[0] ** 0.5, k, v, keys, values)
