def cache_bytes(config, tokens, batch, bits):
    # One layer, keys and values: [batch, kv_heads, tokens, head_dim]
    width = config.num_key_value_heads * config.head_dim
    numbers = 2 * config.num_hidden_layers * width * tokens * batch
    return numbers * bits // 8
