"""The plain encoder–decoder: float64 numpy, one pair of texts at a time, no cache, no batch, no padding.

It shares no code with the package. Vaswani et al. 2017: the encoder sees everything, the decoder sees its own
past and the whole source.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from reference import Weights, feed_forward, norm, turned


def reference_translation(
    config, weights: Weights, source: Sequence[int], target: Sequence[int]
) -> np.ndarray:
    """Logits `[target, vocab]` of one pair."""
    memory = _embedded(weights, source)
    for index in range(config.encoder_layers):
        w = _layer(weights, f"encoder.{index}.")
        x = norm(config, memory, w["input_layernorm.weight"])
        memory = memory + _attention(config, w, "self_attn", x, x, lambda i: range(len(source)), turn=True)
        memory = memory + feed_forward(config, w, norm(config, memory, w["post_attention_layernorm.weight"]))
    memory = norm(config, memory, weights["encoder_norm.weight"])
    x = _embedded(weights, target)
    for index in range(config.num_hidden_layers):
        w = _layer(weights, f"layers.{index}.")
        y = norm(config, x, w["input_layernorm.weight"])
        x = x + _attention(config, w, "self_attn", y, y, lambda i: range(i + 1), turn=True)
        y = norm(config, x, w["cross_layernorm.weight"])
        x = x + _attention(config, w, "cross_attn", y, memory, lambda i: range(len(source)), turn=False)
        x = x + feed_forward(config, w, norm(config, x, w["post_attention_layernorm.weight"]))
    return norm(config, x, weights["norm.weight"]) @ weights["embed_tokens.weight"].T


def _embedded(weights: Weights, text: Sequence[int]) -> np.ndarray:
    return weights["embed_tokens.weight"][list(text)]


def _layer(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def _attention(config, w: Weights, which: str, x, y, seen_by, turn: bool) -> np.ndarray:
    """Queries of `x [n, hidden]` over keys and values of `y [m, hidden]`, head by head, row by row."""
    size, out = config.head_dim, []
    group = config.num_attention_heads // config.num_key_value_heads
    for head in range(config.num_attention_heads):
        mine = slice(head * size, (head + 1) * size)
        shared = slice(head // group * size, (head // group + 1) * size)
        q = x @ w[f"{which}.q_proj.weight"][mine].T
        k, v = y @ w[f"{which}.k_proj.weight"][shared].T, y @ w[f"{which}.v_proj.weight"][shared].T
        if turn:
            q, k = turned(config, q, sliding=False), turned(config, k, sliding=False)
        rows = []
        for i in range(len(x)):
            seen = list(seen_by(i))
            score = k[seen] @ q[i] * size**-0.5
            weight = np.exp(score - score.max())
            rows.append(weight / weight.sum() @ v[seen])
        out.append(np.stack(rows))
    return np.concatenate(out, axis=1) @ w[f"{which}.o_proj.weight"].T
