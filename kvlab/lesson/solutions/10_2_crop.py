import torch


def crop(positions, length, window):
    first = max(0, length - window + 1)  # the oldest that the next token sees
    needed = torch.arange(first, length)
    if not torch.isin(needed, positions).all():
        raise ValueError(f"the window from {first} on has been overwritten")
    return positions.masked_fill(positions >= length, -1)
