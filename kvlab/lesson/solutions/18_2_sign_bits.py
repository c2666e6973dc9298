def rank_by_bits(query, keys, directions):
    asked = query @ directions > 0  # [bits]
    held = keys @ directions > 0  # [tokens, bits]: one bit a direction is all that is kept
    return (asked != held).sum(dim=-1).argsort(stable=True)
