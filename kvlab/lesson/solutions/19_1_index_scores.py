import torch


def index_scores(q, w, keys):
    met = torch.relu(q @ keys.T)  # [heads, tokens]
    return w @ met  # [tokens]
