def merge(keys, values, counts):
    tokens = counts.sum()
    share = counts / tokens  # [entries], adds up to 1
    # exp(score + log n) = n · exp(score): one entry that weighs as much as n.
    return share @ keys, share @ values, tokens.log()
