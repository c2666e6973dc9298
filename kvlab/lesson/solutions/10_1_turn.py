def turn(keys, positions, k, position, window):
    slot = position % len(keys)  # the oldest token's, once the ring is full
    keys[slot] = k
    positions[slot] = position
    # By position, never by slot: free slots and tokens out of the window stay hidden.
    return (positions >= 0) & (positions > position - window)
