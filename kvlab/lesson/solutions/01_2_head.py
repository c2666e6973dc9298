import torch


def head_output(q, k, v):
    tokens, head_dim = q.shape
    scores = q @ k.T / head_dim**0.5  # [tokens, tokens]: row query, column key
    allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    scores = scores.masked_fill(~allowed, float("-inf"))
    weights = scores.softmax(dim=-1)  # each row adds up to 1
    return weights @ v  # [tokens, head_dim]
