import torch


def loss(attention, scores, seen):
    target = attention.sum(dim=0)
    target = target / target.sum()  # one distribution for all heads
    hidden = scores.masked_fill(~seen, float("-inf"))
    log = hidden.log_softmax(dim=0).masked_fill(~seen, 0.0)  # log p
    return (torch.special.xlogy(target, target) - target * log).sum()
