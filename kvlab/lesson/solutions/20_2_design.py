import kvlab


def design(task, tokens):
    int4 = kvlab.Quantize(4, "token", group_size=32, residual=16)
    if task == "go on":
        return {"codec": int4, "eviction": kvlab.SnapKV(tokens // 4)}
    if task == "answer":
        return {"codec": int4}
    quest = kvlab.Quest(16, tokens // 8 // 16)  # pages of 16 entries
    return {"codec": int4, "selection": quest}
