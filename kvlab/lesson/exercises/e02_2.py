"""02.2: many query heads, few KV heads."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("02.2", "Scores of heads that share keys", function="shared_scores", stub="""
def shared_scores(q, k):
    # q: [heads, tokens, head_dim], k: [kv_heads, tokens, head_dim]
    # -> scores q·k / sqrt(head_dim), [heads, tokens, tokens]
    ...
""")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    kv_heads, group = draw.one_of([(3, 2), (4, 2), (4, 3), (5, 3)])
    tokens, head_dim = draw.integer(3, 5), draw.one_of([6, 8])
    return draw.normal(kv_heads * group, tokens, head_dim), draw.normal(kv_heads, tokens, head_dim)


@EXERCISE.alternative
def alternative(q, k):
    grouped = q.unflatten(0, (len(k), -1))  # [kv_heads, group, tokens, head_dim]
    return torch.einsum("kgid,kjd->kgij", grouped, k).flatten(0, 1) / q.shape[-1] ** 0.5


def scores(q, k):
    return q @ k.mT / q.shape[-1] ** 0.5


@EXERCISE.mistake(
    "You dealt the KV heads out like cards, A B C A B C (`repeat`, or h % kv_heads). Neighbours share one: "
    "A A A B B B (`repeat_interleave`, or h // group)."
)
def tiled(q, k):
    return scores(q, k.repeat(len(q) // len(k), 1, 1))


@EXERCISE.mistake(
    "You divided by the number of KV heads: head h reads KV head h // group, group = heads // kv_heads. With "
    "SmolLM2's 9 and 3 both are 3, so nobody would see it there."
)
def wrong_divisor(q, k):
    return scores(q, k[torch.arange(len(q)) // len(k)])


@EXERCISE.mistake("All your heads read KV head 0. The others have keys of their own.")
def first_only(q, k):
    return scores(q, k[:1])


@EXERCISE.mistake("The heads are right, but √head_dim is missing: divide the scores by it.")
def unscaled(q, k):
    return q @ k.repeat_interleave(len(q) // len(k), dim=0).mT


@EXERCISE.mistake("The scores are right, but you went on to the softmax: the scores alone are asked for.")
def weights(q, k):
    return scores(q, k.repeat_interleave(len(q) // len(k), dim=0)).softmax(-1)


@EXERCISE.mistake("Rows and columns are swapped: a row is a query, a column is a key.")
def transposed(q, k):
    return scores(q, k.repeat_interleave(len(q) // len(k), dim=0)).mT
