import torch


def serve(lm, cache, prompts, new):
    answers: list[list[int] | None] = []
    for prompt in prompts:
        cache.reset()  # the memory stays, the text before goes
        # The last new id is never fed back: it needs no slot.
        if len(prompt) + new - 1 > cache.remaining:
            answers.append(None)
            continue
        logits = lm(torch.tensor([prompt]), cache)
        ids = [int(logits[0, -1].argmax())]
        while len(ids) < new:
            logits = lm(torch.tensor([ids[-1:]]), cache)
            ids.append(int(logits[0, -1].argmax()))
        answers.append(ids)
    return answers
