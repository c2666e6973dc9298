"""A decoder whose cache is a plain Python list for each head: what evictions and merges are compared with.

Float64 numpy and loops, like `reference.py`, of which it takes the norms and the feed-forward. A policy is a
function of one layer's lists and of the attention that was paid; it returns the lists to go on with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from reference import Weights, feed_forward, norm, stretched


@dataclass
class Entry:
    """One key and one value, plain (not rotated)."""

    position: int
    key: np.ndarray
    value: np.ndarray
    count: int = 1


Heads = list[list[Entry]]  # by KV head
Paid = list[list[dict[int, float]]]  # by KV head and query: position -> attention of the group's heads
Policy = Callable[[int, Heads, Paid], Heads]


@dataclass
class ListCache:
    """Takes chunks of a text one after the other."""

    config: object
    weights: Weights
    policy: Policy
    closed: bool = False  # rotary positions are counted inside the cache
    seen: int = 0
    layers: list[Heads] = field(default_factory=list)

    def __post_init__(self) -> None:
        c = self.config
        self.layers = [[[] for _ in range(c.num_key_value_heads)] for _ in range(c.num_hidden_layers)]

    def take(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits `[tokens, vocab]` of a chunk."""
        c, weights = self.config, self.weights
        x = weights["embed_tokens.weight"][list(tokens)] * c.embed_scale
        for layer in range(c.num_hidden_layers):
            prefix = f"layers.{layer}."
            w = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
            attended = self._attention(layer, w, norm(c, x, w["input_layernorm.weight"]))
            if c.sandwich_norms:
                x = x + norm(c, attended, w["post_attention_layernorm.weight"])
                fed = feed_forward(c, w, norm(c, x, w["pre_feedforward_layernorm.weight"]))
                x = x + norm(c, fed, w["post_feedforward_layernorm.weight"])
            else:
                x = x + attended
                x = x + feed_forward(c, w, norm(c, x, w["post_attention_layernorm.weight"]))
        self.seen += len(tokens)
        head = weights["embed_tokens.weight"] if c.tie_word_embeddings else weights["lm_head.weight"]
        return norm(c, x, weights["norm.weight"]) @ head.T

    def positions(self, layer: int = 0) -> list[list[int]]:
        return [[entry.position for entry in held] for held in self.layers[layer]]

    def _attention(self, layer: int, w: Weights, x: np.ndarray) -> np.ndarray:
        c, size, held = self.config, self.config.head_dim, self.layers[layer]
        for head, entries in enumerate(held):
            mine = slice(head * size, (head + 1) * size)
            for i, row in enumerate(x):
                key = row @ w["self_attn.k_proj.weight"][mine].T
                if c.qk_norm:
                    key = norm(c, key, w["self_attn.k_norm.weight"])
                entries.append(Entry(self.seen + i, key, row @ w["self_attn.v_proj.weight"][mine].T))
        group = c.num_attention_heads // c.num_key_value_heads
        paid: Paid = [[{} for _ in x] for _ in held]
        out = np.zeros((len(x), c.num_attention_heads * size))
        for head in range(c.num_attention_heads):
            mine, entries = slice(head * size, (head + 1) * size), held[head // group]
            for i, row in enumerate(x):
                query = row @ w["self_attn.q_proj.weight"][mine].T
                if c.qk_norm:
                    query = norm(c, query, w["self_attn.q_norm.weight"])
                out[i, mine] = self._mix(layer, query, self.seen + i, entries, paid[head // group][i])
        self.layers[layer] = self.policy(layer, held, paid)
        return out @ w["self_attn.o_proj.weight"].T

    def _mix(self, layer: int, query, position: int, entries: list[Entry], paid: dict[int, float]):
        c = self.config
        sliding = c.layer_types[layer] == "sliding"
        first = position - c.sliding_window + 1 if sliding else 0
        places = {entry.position: i if self.closed else entry.position for i, entry in enumerate(entries)}
        query = turned_to(c, query, places.get(position, position), sliding)
        visible = [entry for entry in entries if first <= entry.position <= position]
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        score = np.array(
            [
                turned_to(c, e.key, places[e.position], sliding) @ query * scale + math.log(e.count)
                for e in visible
            ]
        )
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        for entry, share in zip(visible, weight, strict=True):
            paid[entry.position] = paid.get(entry.position, 0.0) + share
        return weight @ np.array([entry.value for entry in visible])


def turned_to(config, x: np.ndarray, place: int, sliding: bool) -> np.ndarray:
    """One vector turned to a position: its pairs as complex numbers."""
    half = config.head_dim // 2
    own = sliding and config.rope_local_theta is not None
    base = config.rope_local_theta if own else config.rope_theta
    scaling = None if own else config.rope_scaling
    speeds = np.array([stretched(scaling, base ** (-2 * i / config.head_dim)) for i in range(half)])
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * place * speeds)
    return np.concatenate([z.real, z.imag])


# --- the policies, as one would write them on paper ---


def sink_recent(sinks: int, recent: int) -> Policy:
    def policy(layer: int, heads: Heads, paid: Paid) -> Heads:
        newest = heads[0][-1].position
        return [[e for e in held if e.position < sinks or e.position > newest - recent] for held in heads]

    return policy


def top(held: list[Entry], worth: dict[int, float], n: int, newest: int) -> list[Entry]:
    """The `newest` last entries and the worthiest others, `n` in all."""
    if len(held) <= n:
        return held
    last = [e.position for e in held[len(held) - newest :]]
    others = sorted((e.position for e in held[: len(held) - newest]), key=lambda p: -worth.get(p, 0.0))
    stays = {*last, *others[: n - len(last)]}
    return [e for e in held if e.position in stays]


def h2o(budget: int, recent: int) -> Policy:
    received: dict[tuple[int, int], dict[int, float]] = {}

    def policy(layer: int, heads: Heads, paid: Paid) -> Heads:
        kept = []
        for head, held in enumerate(heads):
            mine = received.setdefault((layer, head), {})
            for query in paid[head]:
                for position, share in query.items():
                    mine[position] = mine.get(position, 0.0) + share
            kept.append(top(held, mine, budget, recent))
        return kept

    return policy


def tova(budget: int) -> Policy:
    def policy(layer: int, heads: Heads, paid: Paid) -> Heads:
        worth: dict[int, float] = {}
        for queries in paid:
            for position, share in queries[-1].items():
                worth[position] = worth.get(position, 0.0) + share
        return [top(held, worth, budget, 1) for held in heads]

    return policy


def pooled(held: list[Entry], queries: list[dict[int, float]], window: int, kernel: int) -> dict[int, float]:
    """SnapKV's scores of the entries before the window: mass of its queries, averaged over neighbours."""
    before = [e.position for e in held[: len(held) - window]]
    mass = [sum(query.get(p, 0.0) for query in queries[-window:]) for p in before]
    reach = kernel // 2
    near = [mass[max(0, i - reach) : i + reach + 1] for i in range(len(mass))]
    return {p: sum(some) / kernel for p, some in zip(before, near, strict=True)}


def snapkv(budgets: Sequence[int], window: int, kernel: int) -> Policy:
    """`budgets` by layer; due as soon as there is more than their average."""
    average, done = sum(budgets) / len(budgets), set()

    def policy(layer: int, heads: Heads, paid: Paid) -> Heads:
        if layer in done or len(paid[0]) < window or len(heads[0]) <= average:
            return heads
        done.add(layer)
        scores = [pooled(held, queries, window, kernel) for held, queries in zip(heads, paid, strict=True)]
        return [top(held, s, budgets[layer], window) for held, s in zip(heads, scores, strict=True)]

    return policy


def adakv(budget: int, window: int, kernel: int, floor: float) -> Policy:
    done: set[int] = set()

    def policy(layer: int, heads: Heads, paid: Paid) -> Heads:
        if layer in done or len(paid[0]) < window or len(heads[0]) <= budget:
            return heads
        done.add(layer)
        scores = [pooled(held, queries, window, kernel) for held, queries in zip(heads, paid, strict=True)]
        stays = [
            {e.position for e in top(held, s, max(window, int(floor * budget)), window)}
            for held, s in zip(heads, scores, strict=True)
        ]
        left = budget * len(heads) - sum(map(len, stays))
        rest = [(-s, i, p) for i, one in enumerate(scores) for p, s in one.items() if p not in stays[i]]
        for _, head, position in sorted(rest)[:left]:
            stays[head].add(position)
        return [[e for e in held if e.position in stays[head]] for head, held in enumerate(heads)]

    return policy


def consecutive(budget: int, sinks: int, recent: int) -> Policy:
    """Join neighbours with the highest cosine, as many as are too many."""

    def policy(layer: int, heads: Heads, paid: Paid) -> Heads:
        return [_joined(held, budget, sinks, recent) for held in heads]

    return policy


def _joined(held: list[Entry], budget: int, sinks: int, recent: int) -> list[Entry]:
    newest = held[-1].position
    links = {}
    for i, (a, b) in enumerate(zip(held, held[1:], strict=False)):
        if a.position >= sinks and b.position <= newest - recent:
            links[i] = a.key @ b.key / np.linalg.norm(a.key) / np.linalg.norm(b.key)
    joined = set(sorted(links, key=lambda i: -links[i])[: max(0, len(held) - budget)])
    runs: list[list[Entry]] = []
    for i, entry in enumerate(held):
        if i - 1 in joined:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return [_one(run) for run in runs]


def _one(run: list[Entry]) -> Entry:
    count = sum(e.count for e in run)
    key = sum(e.count * e.key for e in run) / count
    value = sum(e.count * e.value for e in run) / count
    return Entry(run[-1].position, key, value, count)
