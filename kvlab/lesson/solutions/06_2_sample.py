import torch


def sample(logits, temperature, top_k, top_p, u):
    logits = logits / temperature
    kth = logits.topk(top_k).values[-1]
    logits = logits.masked_fill(logits < kth, float("-inf"))
    ordered, order = logits.softmax(0).sort(descending=True)
    before = ordered.cumsum(0) - ordered  # what better tokens hold
    ordered = torch.where(before < top_p, ordered, 0.0)
    p = torch.zeros_like(ordered).scatter(0, order, ordered)  # by id
    sums = (p / p.sum()).cumsum(0)
    return int((sums <= u).sum())  # the first whose sum passes u
