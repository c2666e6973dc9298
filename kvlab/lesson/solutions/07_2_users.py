def users(device, weights, spare, tokens, layers):
    left = device * (1 - spare) - weights  # one copy of the weights
    one = 0  # bytes of one user's cache
    for cost, window in layers:
        kept = tokens if window is None else min(tokens, window - 1)
        one += cost * kept
    return max(0, int(left // one))
