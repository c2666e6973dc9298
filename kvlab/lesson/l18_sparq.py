"""Lesson 18: which channels SparQ reads, what their scores are worth, and how many channels are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.selection.base import shares
from kvlab.selection.sparq import largest, part_of

from .l18 import FIRST, Scene, recall
from .style import BLUE, MEASURED, QUIET, RUST, Drawing, drawing, styled


@dataclass
class Channels:
    """The last query of a text under SparQ: one KV head's channels and scores, and the recall of all."""

    size: Tensor  # [head_dim] the group's |q|, added
    read: Tensor  # [r] the channels that are read
    true: Tensor  # [group, tokens] scores from all channels, scaled
    guess: Tensor  # [group, tokens] scores from those that are read, scaled and cooled
    counts: list[int]  # numbers of channels
    found: list[float]  # of the k best entries, by `counts`; the mean over KV heads from layer `FIRST` on
    drawn: list[float]  # the same, with channels drawn at random


def guesses(queries: Tensor, keys: Tensor, channels: Tensor) -> Tensor:
    """Scores from some channels, cooled as in SparQ, not scaled: `[layers, kv_heads, group, tokens]`.

    queries: `[layers, kv_heads, group, head_dim]`; keys: `[layers, kv_heads, tokens, head_dim]`; channels:
    `[layers, kv_heads, r]`.
    """
    part, weight = part_of(queries, channels)
    some = keys.gather(-1, channels.unsqueeze(2).expand(-1, -1, keys.shape[2], -1))
    return part @ some.transpose(-1, -2) / weight


def channels(given: Scene, layer: int, head: int, r: int, k: int, counts: Sequence[int]) -> Channels:
    """SparQ's choice for the last query, which sees all: scores of KV head `head`, and the recall of all."""
    q, keys, scale = given.queries[:, :, :, -1], given.keys, given.keys.shape[-1] ** -0.5
    everything = torch.ones(1, 1, keys.shape[2], dtype=torch.bool)
    true, read = q @ keys.transpose(-1, -2) * scale, largest(q, r)
    draw = torch.Generator().manual_seed(0)
    order = torch.rand(largest(q, q.shape[-1]).shape, generator=draw).argsort(dim=-1)

    def share_found(these: Tensor) -> float:
        ranks = shares(guesses(q, keys, these) * scale, everything)
        return recall(ranks[FIRST:], shares(true, everything)[FIRST:], k)

    return Channels(
        q[layer, head].abs().sum(dim=0),
        read[layer, head],
        true[layer, head],
        (guesses(q, keys, read) * scale)[layer, head],
        list(counts),
        [share_found(largest(q, n)) for n in counts],
        [share_found(order[..., :n]) for n in counts],
    )


@styled
def channels_figure(given: Channels, title: str) -> Drawing:
    """Left: |q| by channel, blue is read. Middle: a key's score from these and from all. Right: recall."""
    alt = "SparQ: a few channels hold most of a query, and rank keys nearly as all channels do"
    figure, (size, scores, recalls) = drawing(9.4, 3.0, alt=alt, columns=3)
    read = set(given.read.tolist())
    colours = [BLUE if channel in read else "#C9C4BA" for channel in range(len(given.size))]
    size.bar(range(len(given.size)), given.size.tolist(), color=colours, width=1.0)
    size.set_xlabel("channel (blue: read)")
    size.set_ylabel("|q|, added over the group")
    size.set_title(title, fontsize=9.5)
    true, guess = given.true.flatten().tolist(), given.guess.flatten().tolist()
    scores.plot(true, guess, "o", color=BLUE, markersize=1.8, alpha=0.5)
    ends = [min(true + guess), max(true + guess)]
    scores.plot(ends, ends, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    scores.set_xlabel("score from all channels")
    scores.set_ylabel(f"score from {len(given.read)} of {len(given.size)}")
    recalls.plot(given.counts, given.found, color=BLUE, label="where |q| is largest", **MEASURED)
    recalls.plot(given.counts, given.drawn, color=RUST, label="drawn at random", **MEASURED)
    recalls.set_xscale("log", base=2)
    recalls.set_xticks(given.counts, [str(n) for n in given.counts])
    recalls.minorticks_off()
    recalls.set_ylim(0, 1.03)
    recalls.set_xlabel("channels read")
    recalls.set_ylabel("of the best entries, found")
    recalls.legend(frameon=False, fontsize=8)
    return figure
