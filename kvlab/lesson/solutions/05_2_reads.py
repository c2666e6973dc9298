def reads(step, tokens, vocab):
    def last(text):
        _, state = step(text[:, :-1], None)
        return step(text[:, -1:], state)[0]  # [1, 1, vocab]

    before, read = last(tokens), []
    for i in range(tokens.shape[1] - 1):
        changed = tokens.clone()  # the other tokens stay
        changed[0, i] = (changed[0, i] + 1) % vocab
        if not last(changed).equal(before):
            read.append(i)
    return read
