def next_id(logits):
    # logits: [tokens, vocab]
    last = logits[-1]  # [vocab]: what follows the last token
    return int(last.argmax())
