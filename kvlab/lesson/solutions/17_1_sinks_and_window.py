def rows_to_read(position, sinks, recent):
    first = range(min(sinks, position + 1))  # no more than there are
    # The window begins behind the sinks where the two would meet.
    newest = range(max(len(first), position - recent + 1), position + 1)
    return [*first, *newest]
