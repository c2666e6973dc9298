import torch


def step(q, k, v, keys, values, slot):
    # In place, at a place that is a tensor: nothing moves.
    keys.index_copy_(0, slot, k[None])
    values.index_copy_(0, slot, v[None])
    # All slots are read; those behind the token are hidden.
    scores = keys @ q / q.shape[0] ** 0.5  # [capacity]
    free = torch.arange(keys.shape[0]) > slot  # [capacity]
    scores = scores.masked_fill(free, float("-inf"))
    return scores.softmax(0) @ values
