def grow(scores, log_p, texts, cache):
    beams, vocab = log_p.shape
    top = (scores[:, None] + log_p).flatten().topk(beams)  # over all beams at once
    parents, words = top.indices // vocab, top.indices % vocab
    cache.reorder(parents)  # row i goes on from what row parents[i] has computed
    texts = [texts[p] + [w] for p, w in zip(parents.tolist(), words.tolist(), strict=True)]
    return top.values, texts
