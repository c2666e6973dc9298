def continue_text(logits_of, ids, count):
    ids = list(ids)  # a copy: the caller's list stays as it is
    prompt = len(ids)
    for _ in range(count):
        logits = logits_of(ids)  # [len(ids), vocab]: all ids, every time
        ids.append(int(logits[-1].argmax()))
    return ids[prompt:]
