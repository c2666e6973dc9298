import torch


def generate(lm, cache, prompt, new):
    logits = lm(torch.tensor([prompt]), cache)  # prefill: all at once
    ids = [int(logits[0, -1].argmax())]
    while len(ids) < new:  # decode: one token a step, and only it
        logits = lm(torch.tensor([ids[-1:]]), cache)
        ids.append(int(logits[0, -1].argmax()))
    return ids
