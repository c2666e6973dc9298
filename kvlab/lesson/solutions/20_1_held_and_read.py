def held_and_read(entries, dim, bits, page, pages):
    entry = 2 * dim * bits / 8  # bytes of a key and a value
    whole, rest = divmod(entries, page)
    bounds = whole * 2 * dim * 2  # two vectors of 16 bits
    held = entries * entry + bounds
    read = bounds + (pages * page + rest) * entry
    return held, read
