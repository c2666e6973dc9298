import torch


def causal_mask(tokens):
    allowed = torch.ones(tokens, tokens, dtype=torch.bool)
    return allowed.tril()  # True on and below the diagonal
