"""Lesson 02: positions taken away or claimed wrongly, KV heads dealt wrongly, and how alike heads are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from torch import Tensor

from kvlab.cache import Cache
from kvlab.model import Decoder

from .figures import Line, as_array, curves
from .recorded import Recorded
from .style import INK, Drawing, drawing, styled


@contextmanager
def frozen(lm: Decoder, pairs: slice = slice(None)) -> Iterator[None]:
    """Inside the block these rotary pairs stand still in every layer: their frequency is 0.

    With all pairs frozen the model knows no positions at all.
    """
    attentions = _attentions(lm)
    before = [attention.frequencies for attention in attentions]
    try:
        for attention, frequencies in zip(attentions, before, strict=True):
            attention.frequencies = frequencies.clone()
            attention.frequencies[pairs] = 0
        yield
    finally:
        for attention, frequencies in zip(attentions, before, strict=True):
            attention.frequencies = frequencies


@contextmanager
def dealt(lm: Decoder) -> Iterator[None]:
    """Inside the block the KV heads are dealt out like cards: query head h reads KV head `h % kv_heads`.

    The model's code stays as it is: the query heads change places, each with its rows of `q_proj` and its
    columns of `o_proj`, so that each meets the other KV head.
    """
    config = lm.config
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    order = torch.tensor([h for kv in range(kv_heads) for h in range(kv, heads, kv_heads)], device=lm.device)
    attentions = _attentions(lm)
    before = [(attention.qkv, attention.o_proj.weight) for attention in attentions]
    try:
        for attention, (qkv, mix) in zip(attentions, before, strict=True):
            q, kv = qkv.split([heads * dim, len(qkv) - heads * dim])
            q = q.unflatten(0, (heads, dim))[order].flatten(0, 1)
            mixed = mix.unflatten(1, (heads, dim))[:, order].flatten(1)
            attention.qkv = torch.cat((q, kv))
            attention.o_proj.weight = torch.nn.Parameter(mixed, requires_grad=False)
        yield
    finally:
        for attention, (qkv, mix) in zip(attentions, before, strict=True):
            attention.qkv, attention.o_proj.weight = qkv, mix


def _attentions(lm: Decoder) -> list[Any]:
    return [layer.self_attn for layer in lm.layers]


def at_positions(lm: Decoder, ids: Tensor, positions: Tensor, cache: Cache | None = None) -> Tensor:
    """Logits `[batch, tokens, vocab]` of `ids`, whose queries and keys are rotated to `positions [tokens]`.

    The cache would count the positions itself; here the caller claims them, right or wrong.
    """
    cache = Cache(lm) if cache is None else cache
    step = cache.begin(ids)
    step.positions = positions.to(step.positions).expand_as(step.positions)
    logits = lm.run(step, cache.layers, tokens=ids.shape[1])
    cache.commit(step)
    return logits


def write_at(
    lm: Decoder, text: str, position: Callable[[int, int], int], start: int = 0, new: int = 20
) -> str:
    """Greedy text of up to `new` tokens; `position(prompt tokens, tokens written)` claims where each stands.

    The prompt itself stands at `start`, `start + 1`, …
    """
    ids = torch.tensor([lm.tokenizer.encode(text)], device=lm.device)
    prompt, cache, written = ids.shape[1], Cache(lm), list[int]()
    logits = at_positions(lm, ids, torch.arange(start, start + prompt), cache)
    for count in range(new):
        token = int(logits[0, -1].argmax())
        if token in lm.config.eos_token_ids:
            break
        written.append(token)
        claimed = torch.tensor([position(prompt, count)])
        logits = at_positions(lm, torch.tensor([[token]], device=lm.device), claimed, cache)
    return lm.tokenizer.decode(written)


def shift_errors(lm: Decoder, ids: Tensor, shifts: Sequence[int]) -> tuple[list[float], list[float]]:
    """Largest |Δlogit| of the last token for each shift: of all positions, and of the last token's alone."""
    tokens = ids.shape[1]
    counted = torch.arange(tokens)
    past = Cache(lm)
    lm(ids[:, :-1], past)
    true = lm(ids, last_only=True)[0, -1]
    together, alone = [], []
    for shift in shifts:
        moved = at_positions(lm, ids, counted + shift)[0, -1]
        wrong = at_positions(lm, ids[:, -1:], counted[-1:] + shift, past.fork())[0, -1]
        together.append(float((moved - true).abs().max()))
        alone.append(float((wrong - true).abs().max()))
    return together, alone


def overlap(maps: Tensor) -> np.ndarray:
    """How much of their attention two heads put on the same tokens, `[layers, heads, heads]`, 0 to 1.

    `maps` is `[layers, heads, tokens, tokens]`. The sink (key 0) is left out, and so are the first four
    queries, which have hardly a choice.
    """
    seen = maps[:, :, 4:, 1:]
    seen = seen / seen.sum(-1, keepdim=True).clamp(min=1e-9)
    shared = [torch.minimum(seen, seen[:, [h]]).sum(-1).mean(-1) for h in range(seen.shape[1])]
    return as_array(torch.stack(shared, dim=1))


def by_group(overlaps: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean overlap of two heads, `[layers]`: inside a group of `group` neighbours, and across groups."""
    of = np.arange(overlaps.shape[-1]) // group
    same = of[:, None] == of[None]
    pairs = ~np.eye(len(of), dtype=bool)
    return overlaps[:, same & pairs].mean(-1), overlaps[:, ~same].mean(-1)


@styled
def overlap_map(overlaps: np.ndarray, group: int) -> Drawing:
    """Overlap of each two heads, mean of `overlaps [layers, heads, heads]` over layers; groups are framed."""
    mean = overlaps.mean(axis=0)
    heads = len(mean)
    inside, across = (float(part.mean()) for part in by_group(overlaps, group))
    alt = f"overlap of {heads} heads: {inside:.2f} inside a group of {group}, {across:.2f} across groups"
    side = 1.2 + 0.42 * heads
    figure, (ax,) = drawing(side + 0.6, side, alt=alt)
    off = ~np.eye(heads, dtype=bool)
    shown = np.where(off, mean, np.nan)
    low, high = float(mean[off].min()), float(mean[off].max())
    pale = LinearSegmentedColormap.from_list("overlap", ["#FCFBF8", "#93A4EE"])  # dark text stays readable
    ax.imshow(shown, cmap=pale, vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(shown):
        if row != column:
            ax.text(column, row, f".{round(100 * value):02d}", ha="center", va="center", fontsize=9)
    for start in range(0, heads, group):
        corner = (start - 0.5, start - 0.5)
        ax.add_patch(Rectangle(corner, group, group, fill=False, edgecolor=INK, linewidth=2, clip_on=False))
    ax.grid(False)
    ax.tick_params(length=0)
    labels = [f"{h}" for h in range(heads)]
    ax.set_xticks(range(heads), labels)
    ax.set_yticks(range(heads), labels)
    ax.set_xlabel("query head")
    ax.set_ylabel("query head")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


def losses(lm: Decoder, ids: Tensor) -> Tensor:
    """How surprised the model is by each token of `ids [batch, tokens]`, in nats, `[batch, tokens - 1]`."""
    return F.cross_entropy(lm(ids)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


def added(lm: Decoder, ids: Tensor, pairs: tuple[int, int], exact: Tensor | None = None) -> Tensor:
    """Loss that freezing `pairs` (from, to) adds to each token of `ids`, `[batch, tokens - 1]`.

    exact: `losses(lm, ids)`, where the caller has them.
    """
    exact = losses(lm, ids) if exact is None else exact
    with frozen(lm, slice(*pairs)):
        return losses(lm, ids) - exact


def added_now(lm: Decoder, run: Recorded) -> float:
    """The first point of the recorded run, measured again: nats a token that freezing pairs 0–7 adds."""
    first = torch.tensor(run.report.parameters["first_ids"], device=lm.device)
    first = first.clamp(max=lm.config.vocab_size - 1)  # a stand-in model may know fewer tokens
    return float(added(lm, first, (0, 8)).mean())


@styled
def frozen_pairs(run: Recorded, star: float) -> Drawing:
    """Loss that each frozen quarter of the pairs adds along a text; `star`: the first point, measured now."""
    ends = run.report.parameters["edges"][1:]
    rows = [row for row in run.rows if row["pairs"]]
    lines = [Line(f"pairs {a}–{b - 1}", row["added"]) for row in rows for a, b in [row["pairs"]]]
    figure = curves(
        ends,
        lines,
        x_label="position in the text (tokens, up to)",
        y_label="loss added (nats a token)",
        log_x=True,
        point=(ends[0], star, ""),
    )
    name: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
    figure.axes[0].annotate("measured now", (ends[0], star), (12, -7), **name)
    return figure
