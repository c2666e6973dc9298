import torch


def heavy_hitters(attention, budget, recent):
    tokens = attention.shape[1]
    received = attention.sum(dim=0)  # [tokens]: a column is what one token receives
    # The recent ones are safe, so they are no candidates.
    heavy = received[: tokens - recent].topk(budget - recent).indices
    return torch.cat((heavy, torch.arange(tokens - recent, tokens))).sort().values
