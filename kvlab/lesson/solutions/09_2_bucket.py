def bucket(prompt, new, smallest):
    needed = prompt + new - 1  # the last new token is never fed back
    capacity = smallest
    while capacity < needed:
        capacity *= 2
    return capacity
