import math

import torch


def hadamard(x):
    tokens, d = x.shape
    step = 1
    while step < d:
        pairs = x.view(tokens, -1, 2, step)  # numbers that are `step` apart
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        x = torch.stack((a + b, a - b), dim=2).view(tokens, d)
        step *= 2
    return x / math.sqrt(d)  # once: now lengths survive
