def shared_scores(q, k):
    # q: [heads, tokens, head_dim], k: [kv_heads, tokens, head_dim]
    # -> scores q·k / sqrt(head_dim), [heads, tokens, tokens]
    group = q.shape[0] // k.shape[0]  # query heads that share one KV head
    k = k.repeat_interleave(group, dim=0)  # A A A B B B C C C
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
