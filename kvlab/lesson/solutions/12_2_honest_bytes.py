def stored_bytes(tokens, channels, bits, group, residual, sink):
    blocks = (tokens - sink - residual) // group  # only full ones are sealed
    exact = tokens - blocks * group  # sinks, newest, and what fills no block
    codes = blocks * group * channels * bits // 8
    scales = blocks * channels * (2 + 2)  # a scale and a minimum, float16
    return codes + scales + exact * channels * 4
