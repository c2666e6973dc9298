"""09.1: one decode step whose shapes never change."""

import torch

from kvlab.lesson.exercise import Draw, Exercise
from kvlab.lesson.l09 import Watch, changed

EXERCISE = Exercise("09.1", "A step of fixed shapes", function="step", cases=3, stub="""
def step(q, k, v, keys, values, slot):
    # q, k, v: [head_dim], the rows of the new token
    # keys, values: [capacity, head_dim], written in place
    # slot: an int64 tensor [1], where the token goes; what lies
    #   in later slots is left over from another text
    # return out [head_dim]; no shape may depend on slot
    ...
""", hint="`torch.arange(len(keys)) > slot` says which slots are free; −inf hides a score.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    tokens, capacity, d = draw.integer(3, 5), draw.integer(7, 9), draw.one_of([4, 8])
    return draw.normal(3, tokens, d), draw.normal(2, capacity, d)


@EXERCISE.run
def run(candidate, rows, left):
    keys, values, outputs, seen = left[0].clone(), left[1].clone(), [], []
    for i, (q, k, v) in enumerate(rows.unbind(1)):
        with Watch() as watch:
            outputs.append(candidate(q, k, v, keys, values, torch.tensor([i])))
        seen.append(watch.calls)
    same = not any(changed(calls, seen[0]) for calls in seen[1:])
    tensor = not any("_local_scalar_dense" in name for name, _ in seen[0])
    return [outputs, keys, values, {"the same shapes in every step": same, "slot stays a tensor": tensor}]


@EXERCISE.alternative
def alternative(q, k, v, keys, values, slot):
    keys[slot], values[slot] = k, v
    bias = torch.where(torch.arange(keys.shape[0]) > slot, float("-inf"), 0.0)
    return torch.einsum("t,td->d", torch.softmax(keys @ q * q.shape[0] ** -0.5 + bias, 0), values)


def variant(
    q, k, v, keys, values, slot, hidden=torch.gt, fill=float("-inf"), first=True, after=False, root=0.5
):
    write = lambda: (keys.index_copy_(0, slot, k[None]), values.index_copy_(0, slot, v[None]))  # noqa: E731
    if first:
        write()
    hide = hidden(torch.arange(len(keys)), slot)
    scores = keys @ q / q.shape[0] ** root
    out = (scores.softmax(0) * ~hide if after else scores.masked_fill(hide, fill).softmax(0)) @ values
    if not first:
        write()
    return out


def wrong(message, **how):
    EXERCISE.mistake(message)(lambda *given: variant(*given, **how))


wrong("Nothing is hidden: what is left over from another text gets weight.", hidden=lambda s, _: s < 0)
wrong("The new token does not see itself: hide the slots after `slot`, not `slot` itself.", hidden=torch.ge)
wrong("It sees the free slots only: hide those after `slot`.", hidden=torch.le)
wrong("A score of 0 is not hidden, it has weight e⁰: use −inf before the softmax.", fill=0.0)
wrong("Hidden after the softmax, the weights no longer add up to 1: hide the scores, with −inf.", after=True)
wrong("Attend after you have written: here the new token's own slot still holds something old.", first=False)
wrong("You left out the division by √head_dim: the softmax gets too sharp.", root=0)


@EXERCISE.mistake("Right, but you cut the cache at `slot`: the shapes grow. Read all slots under a mask.")
def cuts(q, k, v, keys, values, slot):
    n = int(slot) + 1
    return variant(q, k, v, keys, values, slot) + 0 * keys[:n].sum()


@EXERCISE.mistake("Right, but `int(slot)` fetches a number from the device: `index_copy_` takes the tensor.")
def fetches(q, k, v, keys, values, slot):
    return variant(q, k, v, keys, values, torch.tensor([int(slot)]))
