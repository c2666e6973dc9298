"""Lesson 01: one head step by step, scores that find heads, and heads silenced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm
from torch import Tensor, nn

from .figures import Array, as_array
from .style import (
    ATTENTION,
    ATTENTION_NORM,
    BACKGROUND,
    BLUE,
    DIVERGING,
    INK,
    RUST,
    Drawing,
    drawing,
    styled,
    token_text,
)

if TYPE_CHECKING:
    from kvlab.model import Decoder

Head = tuple[int, int]  # layer, head; both from 0


@styled
def hand_steps(scores: Array, masked: Array, weights: Array, tokens: Sequence[str]) -> Drawing:
    """One head in three pictures, numbers in the cells: scores, scores after the mask, weights.

    All are [tokens, tokens], rows queries, columns keys; where `masked` is -inf the cell is left blank.
    """
    panels = [as_array(scores), as_array(masked), as_array(weights)]
    panels[1] = np.where(np.isinf(panels[1]), np.nan, panels[1])
    panels[2] = np.where(np.isnan(panels[1]), np.nan, panels[2])
    reach = float(np.abs(panels[0]).max())
    looks: list[tuple[str, Colormap, Normalize]] = [
        ("scores: q · k / √d", DIVERGING, TwoSlopeNorm(0, -reach, reach)),
        ("masked: no look ahead", DIVERGING, TwoSlopeNorm(0, -reach, reach)),
        ("weights: softmax of each row", ATTENTION, ATTENTION_NORM),
    ]
    row = int(np.nanargmax(panels[2][-1]))
    alt = f"scores, masked scores, weights of {len(tokens)} tokens; the last query reads {tokens[row]!r} most"
    figure, axes = drawing(10.4, 4.2, alt=alt, columns=3, sharey=True)
    for ax, data, (title, cmap, norm) in zip(axes, panels, looks, strict=True):
        _numbers(ax, data, tokens, cmap, norm)
        ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("query")
    return figure


def _numbers(ax: Axes, data: np.ndarray, tokens: Sequence[str], cmap: Colormap, norm: Normalize) -> None:
    ax.imshow(data, cmap=cmap, norm=norm)
    ax.grid(False)
    labels = [token_text(t) for t in tokens]
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=9)
    ax.set_yticks(range(len(labels)), labels, fontsize=9)
    ax.tick_params(length=0)
    ax.set_xlabel("key")
    for (i, j), value in np.ndenumerate(data):
        if not np.isnan(value):
            red, green, blue, _ = cmap(norm(value))
            bright = 0.3 * red + 0.6 * green + 0.1 * blue > 0.55
            text = f"{value:.2f}" if cmap is ATTENTION else f"{value:.1f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color=INK if bright else "white")


@styled
def before_after(names: Sequence[str], before: Array, after: Array, *, label: str, silenced: str) -> Drawing:
    """One line a text from its chance with all heads (open circle) to that without some (filled)."""
    start, end = as_array(before), as_array(after)
    ways = ("up" if b > a else "down" for a, b in zip(start, end, strict=True))
    said = ", ".join(f"{name} {way}" for name, way in zip(names, ways, strict=True))
    figure, (ax,) = drawing(6.4, 0.9 + 0.34 * len(names), alt=f"{label}, {silenced}: {said}")
    at = np.arange(len(names))
    colours = [BLUE if b > a else RUST for a, b in zip(start, end, strict=True)]
    ax.hlines(at, start, end, color=colours, linewidth=2)
    ax.scatter(start, at, facecolor=BACKGROUND, edgecolor=INK, zorder=3)
    ax.scatter(end, at, color=colours, zorder=4)
    ax.set_yticks(at, [token_text(name) for name in names])
    ax.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel=label)
    ax.set_title(f"open: all heads; filled: {silenced}", fontsize=9.5, fontweight="normal")
    ax.grid(axis="y", visible=False)
    return figure


def sink_scores(maps: Tensor) -> Tensor:
    """How much each head gives to the first token: `[layers, heads]`, mean over the later queries.

    maps: `[layers, heads, tokens, tokens]`, rows queries, columns keys.
    """
    return maps[:, :, 1:, 0].mean(-1)


def previous_scores(maps: Tensor) -> Tensor:
    """How much each head gives to the token before the query: `[layers, heads]`, mean over queries 2, 3, …

    (For query 1 the token before is the first one, and could be a sink.)
    """
    return maps.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean(-1)


def copy_scores(maps: Tensor, key: int) -> Tensor:
    """How much each head gives to one key when the last token looks: `[layers, heads]`."""
    return maps[:, :, -1, key]


def strongest(scores: Tensor, count: int) -> list[Head]:
    """The (layer, head) of the largest values of `scores [layers, heads]`, largest first."""
    heads = scores.shape[1]
    return [divmod(i, heads) for i in scores.flatten().topk(count).indices.tolist()]


def random_heads(layers: int, heads: int, count: int, seed: int) -> list[Head]:
    """`count` different (layer, head), drawn from all."""
    drawn = torch.randperm(layers * heads, generator=torch.Generator().manual_seed(seed))
    return [divmod(i, heads) for i in drawn[:count].tolist()]


@contextmanager
def silenced(lm: Decoder, heads: Sequence[Head]) -> Iterator[None]:
    """Inside the block these (layer, head) add nothing to the stream: all else of `lm` is as before.

    A head's output [tokens, head_dim] meets the model only through its own head_dim columns of the layer's
    o_proj; the layer gets a copy of that matrix with these columns at zero, and its own one back afterwards.

    Raises:
        ValueError: the model has no such layer or head.
    """
    d, config = lm.config.head_dim, lm.config
    for layer, head in heads:
        if not (0 <= layer < config.num_hidden_layers and 0 <= head < config.num_attention_heads):
            most = f"layers 0 to {config.num_hidden_layers - 1}, heads 0 to {config.num_attention_heads - 1}"
            raise ValueError(f"there is no head ({layer}, {head}): {config.name} has {most}.")
    layers: Any = lm.layers
    projections = {layer: layers[layer].self_attn.o_proj for layer, _ in heads}
    own = {layer: projection.weight for layer, projection in projections.items()}
    try:
        for layer, projection in projections.items():
            weight = own[layer].detach().clone()  # [hidden, heads * head_dim]
            for head in (h for at, h in heads if at == layer):
                weight[:, head * d : (head + 1) * d] = 0
            projection.weight = nn.Parameter(weight, requires_grad=False)
        yield
    finally:
        for layer, projection in projections.items():
            projection.weight = own[layer]
