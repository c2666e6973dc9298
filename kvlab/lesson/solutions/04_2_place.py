import torch


def place(real, new):
    slots = real.shape[1]
    # Among the real tokens of a row, the first has position 0.
    positions = (real.cumsum(1) - 1)[:, -new:]
    # Bottom-right: the last query sees every slot; nobody sees padding.
    causal = torch.ones(new, slots, dtype=torch.bool).tril(slots - new)
    return positions, causal & real[:, None]
