def blocks_to_read(reads, tokens, size):
    plan = []
    for first in range(0, tokens, size):
        queries = range(first, min(first + size, tokens))
        # One pair is enough: then the block of keys must be there.
        plan.append(sorted({j // size for i in queries for j in range(i + 1) if reads(i, j)}))
    return plan
