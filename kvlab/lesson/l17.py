"""Lesson 17: masks of fixed patterns, the attention under them, and what leaving out the rest does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kvlab
from kvlab.measure.quality_texts import windows
from kvlab.measure.watch import watch
from kvlab.selection import (
    AShape,
    BigBird,
    Dilated,
    FixedColumns,
    LocalWindow,
    Pattern,
    Selection,
    Strided,
)

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

# About 64 entries of 256 for the last query, each in its own way.
PATTERNS: dict[str, Pattern] = {
    "window": LocalWindow(64),
    "sinks + recent": AShape(4, 60),
    "dilated": Dilated(64, 2),
    "strided": Strided(8),
    "columns": FixedColumns(32, 6),
    "BigBird": BigBird(8, 4, 1, 3),
}


def text(lm: Decoder, tokens: int) -> Tensor:
    """The first `tokens` of the corpus, `[1, tokens]`."""
    return windows(lm, 1, tokens)


def allowed(pattern: Pattern | None, tokens: int) -> Tensor:
    """The mask of a prompt, bool `[queries, keys]`; None: causal attention."""
    at = torch.arange(tokens)
    causal = at <= at[:, None]
    return causal if pattern is None else pattern.allows(at[:, None], at) & causal


def maps(lm: Decoder, ids: Tensor) -> Tensor:
    """Attention of every layer and head, `[layers, heads, queries, keys]`."""
    with kvlab.record(lm) as rec:
        lm(ids)
    return torch.stack([rec.attention[layer][0].cpu() for layer in sorted(rec.attention)])


def mass(attention: Tensor, mask: Tensor, first: int = 0) -> Tensor:
    """Share of attention that falls on `mask`, mean over queries from `first` on: `[layers, heads]`."""
    return (attention * mask).sum(dim=-1)[:, :, first:].mean(dim=-1)


def log_probabilities(lm: Decoder, ids: Tensor, selection: Selection | None = None) -> Tensor:
    """The model's next-word distributions, `[tokens, vocab]` float64, under a pattern."""
    logits = lm(ids) if selection is None else lm(ids, kvlab.Cache(lm, selection=selection))
    return logits[0].double().log_softmax(dim=-1).cpu()


def kl(full: Tensor, other: Tensor) -> Tensor:
    """KL(full ‖ other) of each position, `[tokens]` in nats."""
    return (full.exp() * (full - other)).sum(dim=-1)


def parts(values: Tensor, edges: Sequence[int]) -> list[float]:
    """Means between the edges."""
    return [float(values[a:b].mean()) for a, b in zip(edges, edges[1:], strict=False)]


def says(lm: Decoder, prompt: str, selection: Selection | None, new: int) -> str:
    """Greedy text after a prompt; the pattern holds for prompt and answer."""
    cache = kvlab.Cache(lm, selection=selection)
    ids = lm.tokenizer.encode(prompt)
    return kvlab.generate(lm, ids, cache, max_new_tokens=new, progress=False).text


def needle(lm: Decoder, selection: Selection | None, tokens: int = 200, key: str = "71432") -> bool:
    """Whether the model finds a pass key that was named near the front of so many tokens of prose."""
    encode = lm.tokenizer.encode
    hidden = encode(f"\nThe pass key is {key}.\n")
    question = encode("\n\nWhat is the pass key? The pass key is")
    prose = text(lm, tokens)[0].tolist()[: tokens - len(hidden) - len(question)]
    ids = prose[:20] + hidden + prose[20:] + question
    cache = kvlab.Cache(lm, selection=selection)
    out = kvlab.generate(lm, ids, cache, max_new_tokens=len(encode(" " + key)), progress=False)
    return key in out.text


def reads(lm: Decoder, ids: Tensor, selection: Selection) -> Tensor:
    """What layer 1 reads for the last token, bool `[kv_heads, tokens]`: the prompt goes in first."""
    cache = kvlab.Cache(lm, selection=selection)
    lm(ids[:, :-1], cache, last_only=True)
    with kvlab.record(lm) as rec:
        lm(ids[:, -1:], cache)
    return rec.read[1][0, :, 0].cpu()


# --- how far a change travels -------------------------------------------------------------------------------


def front(lm: Decoder, pattern: Pattern, tokens: int) -> list[int]:
    """Change the first token: the last position that notices, behind each layer."""
    ids = text(lm, tokens)
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % lm.config.vocab_size
    blocks = {str(i): block for i, block in enumerate(lm.blocks())}
    outs: list[list[Tensor]] = []
    for given in (ids, other):
        outs.append([])
        with watch(blocks, lambda _, __, out: outs[-1].append(out)):
            lm(given, kvlab.Cache(lm, selection=pattern))
    changed = [(a != b).any(dim=-1)[0] for a, b in zip(*outs, strict=True)]
    return [int(noticed.nonzero().max()) for noticed in changed]


# --- what is read -------------------------------------------------------------------------------------------


def entries(pattern: Pattern | None, tokens: int) -> int:
    """Entries that the newest of so many tokens reads, in one layer and KV head."""
    if pattern is None:
        return tokens
    return int(pattern.allows(torch.tensor(tokens - 1), torch.arange(tokens)).sum())


def layer_reads(config: Config, tokens: int) -> dict[str, tuple[int, int]]:
    """By layer type: how many layers, and entries that one reads for the newest of `tokens` tokens."""
    found: dict[str, tuple[int, int]] = {}
    for kind in dict.fromkeys(config.layer_types):
        window = config.sliding_window if kind == "sliding" else None
        pattern = None if window is None else LocalWindow(window)
        found[kind] = (config.layer_types.count(kind), entries(pattern, tokens))
    return found


# --- recorded runs ------------------------------------------------------------------------------------------


# a row of the figure -> method of the quality run; each reads a quarter of the prompt's entries
RECORDED = {
    "window": "pattern-window-25",
    "window, prompt in full": "pattern-window-25-decode",
    "sinks + recent": "pattern-sinks-25",
    "the same, prompt in full": "pattern-sinks-25-decode",
    "dilated": "pattern-dilated-25",
    "strided": "pattern-strided-25",
    "columns": "pattern-columns-25",
    "BigBird": "pattern-bigbird-25",
    "the best entries (oracle)": "oracle-25",
}


def prompt_lengths(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The lengths of the prompts that the bench recorded."""
    return sorted({row["tokens"] for row in rows if row["kind"] == "prefill"})


def times_dense(rows: Sequence[Mapping[str, Any]], kind: str, tokens: int) -> dict[str, float]:
    """Way -> how many times faster than dense attention, of the recorded bench."""
    return {r["way"]: r["times_dense"] for r in rows if (r["kind"], r["tokens"]) == (kind, tokens)}
