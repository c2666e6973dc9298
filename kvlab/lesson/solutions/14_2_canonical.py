def canonical(lengths):
    codes, code, before = {}, 0, 0
    for symbol in sorted(lengths, key=lambda s: (lengths[s], s)):
        code <<= lengths[symbol] - before  # longer: zeros behind it
        before = lengths[symbol]
        codes[symbol] = format(code, f"0{before}b")
        code += 1
    return codes
