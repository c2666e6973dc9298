"""The plain decoder that every cache is compared with: float64 numpy, written from the papers' formulas.

It runs one text at a time, its real tokens only, so it knows no padding, no mask, no batch and no cache,
and it shares no code with the package: loops over heads and positions say who sees whom. Vaswani et al.
2017 (attention), Zhang & Sennrich 2019 (RMSNorm), Shazeer 2020 (SwiGLU, GeGLU), Su et al. 2021 (rotary
positions), Ainslie et al. 2023 (GQA), Gemma team 2025 (windows, q/k norm, sandwich norms, two bases),
Llama team 2024 (stretched rotary frequencies).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

Weights = dict[str, np.ndarray]  # named as in the checkpoints, float64


def reference_logits(config, weights: Weights, tokens: Sequence[int], hidden_from=None) -> np.ndarray:
    """Logits `[tokens, vocab]` of one text.

    hidden_from(i): positions that the token at position i may not attend to, for policies that drop some.
    """
    x = weights["embed_tokens.weight"][list(tokens)] * config.embed_scale
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        w = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
        attended = attention(config, layer, w, norm(config, x, w["input_layernorm.weight"]), hidden_from)
        if config.sandwich_norms:
            x = x + norm(config, attended, w["post_attention_layernorm.weight"])
            fed = feed_forward(config, w, norm(config, x, w["pre_feedforward_layernorm.weight"]))
            x = x + norm(config, fed, w["post_feedforward_layernorm.weight"])
        else:
            x = x + attended
            x = x + feed_forward(config, w, norm(config, x, w["post_attention_layernorm.weight"]))
    head = weights["embed_tokens.weight"] if config.tie_word_embeddings else weights["lm_head.weight"]
    return norm(config, x, weights["norm.weight"]) @ head.T


def norm(config, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x over its root mean square, along the last axis, times the weight (Gemma: one more than it)."""
    rms = np.sqrt((x**2).sum(-1, keepdims=True) / x.shape[-1] + config.rms_norm_eps)
    return x / rms * (weight + 1 if config.norm_plus_one else weight)


def feed_forward(config, w: Weights, x: np.ndarray) -> np.ndarray:
    gate, up = x @ w["mlp.gate_proj.weight"].T, x @ w["mlp.up_proj.weight"].T
    if config.activation == "silu":
        gate = gate / (1 + np.exp(-gate))
    else:
        gate = gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2
    return (gate * up) @ w["mlp.down_proj.weight"].T


def attention(config, layer: int, w: Weights, x: np.ndarray, hidden_from=None) -> np.ndarray:
    size, out = config.head_dim, []
    sliding = config.layer_types[layer] == "sliding"
    queries_per_key = config.num_attention_heads // config.num_key_value_heads
    for head in range(config.num_attention_heads):
        mine = slice(head * size, (head + 1) * size)
        shared = head // queries_per_key
        theirs = slice(shared * size, (shared + 1) * size)
        q = x @ w["self_attn.q_proj.weight"][mine].T
        k = x @ w["self_attn.k_proj.weight"][theirs].T
        v = x @ w["self_attn.v_proj.weight"][theirs].T
        if config.qk_norm:
            q = norm(config, q, w["self_attn.q_norm.weight"])
            k = norm(config, k, w["self_attn.k_norm.weight"])
        q, k = turned(config, q, sliding), turned(config, k, sliding)
        rows = []
        for i in range(len(x)):
            first = max(0, i - config.sliding_window + 1) if sliding else 0
            hidden: Collection[int] = hidden_from(i) if hidden_from else ()
            seen = [j for j in range(first, i + 1) if j not in hidden]
            score = (k[seen] @ q[i]) * (size**-0.5 if config.query_scale is None else config.query_scale)
            weight = np.exp(score - score.max())
            rows.append(weight / weight.sum() @ v[seen])
        out.append(np.stack(rows))
    return np.concatenate(out, axis=1) @ w["self_attn.o_proj.weight"].T


def turned(config, x: np.ndarray, sliding: bool) -> np.ndarray:
    """Row i turned to position i: each pair (a, b) as the complex number a + bi, times exp(i · angle)."""
    half = config.head_dim // 2
    own_base = sliding and config.rope_local_theta is not None
    speeds = [
        stretched(None if own_base else config.rope_scaling, base ** (-2 * pair / config.head_dim))
        for base in [config.rope_local_theta if own_base else config.rope_theta]
        for pair in range(half)
    ]
    turn = np.exp(1j * np.outer(np.arange(len(x)), speeds))
    z = (x[:, :half] + 1j * x[:, half:]) * turn
    return np.concatenate([z.real, z.imag], axis=1)


def stretched(scaling, speed: float) -> float:
    """Radians per position after a checkpoint's `rope_scaling`."""
    if scaling is None:
        return speed
    if scaling.kind == "linear":
        return speed / scaling.factor
    turns = scaling.original_max_position_embeddings * speed / (2 * math.pi)  # within the original context
    if turns > scaling.high_freq_factor:
        return speed
    if turns < scaling.low_freq_factor:
        return speed / scaling.factor
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - kept) * speed / scaling.factor + kept * speed
