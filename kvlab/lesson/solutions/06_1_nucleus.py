import torch


def nucleus(logits, p):
    ordered, order = logits.softmax(0).sort(descending=True)
    before = ordered.cumsum(0) - ordered  # what better tokens hold
    ordered = torch.where(before < p, ordered, 0.0)  # the crossing one stays
    ordered = ordered / ordered.sum()
    return torch.zeros_like(ordered).scatter(0, order, ordered)  # by id
