"""Training an indexer or a gate on the model's own attention, by KL divergence; all layers at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvlab.learned.capture import Capture
from kvlab.selection import gate, indexer
from kvlab.selection.trained import Weights

Kind = Literal["indexer", "gate"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, on one machine with one number of threads.

    Raises:
        ValueError: an unknown kind, or sizes and steps below 1.
    """

    kind: Kind = "indexer"
    seed: int = 0
    steps: int = 400
    rows: int = 24  # queries of a step
    learning_rate: float = 1e-3
    width: float = 0.1  # of the first weights; wide ones kill the ReLUs of an indexer for good
    heads: int = 4  # of the indexer
    dim: int = 32  # of the indexer's keys, or of the gate
    page: int = gate.PAGE

    def __post_init__(self) -> None:
        if self.kind not in ("indexer", "gate"):
            raise ValueError(f'kind is "indexer" or "gate", not {self.kind!r}.')
        if min(self.steps, self.rows, self.heads, self.dim, self.page) < 1:
            raise ValueError("steps, rows, heads, dim and page must be 1 or more.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: up in 50 steps, then down in a line."""
        return self.learning_rate * min((step + 1) / 50, 1 - step / self.steps)


def untrained(recipe: Recipe, seen: Capture) -> Weights:
    """Random weights for the layers and widths of `seen`; `width` 1: each matrix keeps sizes as they are."""
    draw = torch.Generator().manual_seed(recipe.seed)
    layers, kv_heads = seen.attention.shape[:2]
    q, k = seen.queries.shape[-1], seen.keys.shape[-1]
    shapes: dict[str, tuple[int, ...]]
    if recipe.kind == "indexer":
        shapes = {"query": (layers, q, recipe.heads * recipe.dim), "weight": (layers, q, recipe.heads)}
        shapes["key"] = (layers, k, recipe.dim)
    else:
        shapes = {"query": (layers, kv_heads, q // kv_heads, recipe.dim)}
        shapes["key"] = (layers, kv_heads, 3 * k // kv_heads, recipe.dim)
    scale = {name: recipe.width * shape[-2] ** -0.5 for name, shape in shapes.items()}
    return {name: scale[name] * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def train(weights: Weights, recipe: Recipe, lessons: Sequence[Capture]) -> Iterator[float]:
    """Train `weights` in place; yields the loss of every step, in nats, averaged over layers and queries."""
    draw = torch.Generator().manual_seed(recipe.seed + 1)
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights.values(), lr=recipe.learning_rate)
    with torch.enable_grad():
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            lesson = lessons[int(torch.randint(len(lessons), (), generator=draw))]
            rows = torch.randint(len(lesson.at), (recipe.rows,), generator=draw)
            lost = divergence(weights, recipe, lesson, rows)
            optimizer.zero_grad()
            lost.backward()
            optimizer.step()
            yield lost.item()
    for weight in weights.values():
        weight.requires_grad_(False).grad = None


def divergence(weights: Weights, recipe: Recipe, lesson: Capture, rows: Tensor) -> Tensor:
    """KL(attention ‖ softmax of the scores) at some rows, in nats; heads that share a choice are summed."""
    seen = lesson.seen[rows]  # [rows, tokens]
    if recipe.kind == "indexer":
        wanted = lesson.attention[:, :, rows].sum(dim=1)  # [layers, rows, tokens]
        held = indexer.small_keys(lesson.keys, weights)
        found = indexer.scores(lesson.queries[:, rows], held, weights)
    else:
        wanted, seen = by_page(lesson.attention[:, :, rows], recipe.page), by_page(seen, recipe.page) > 0
        found = gate.scores(*gate_inputs(lesson, rows, weights, recipe.page), weights)
    wanted = wanted / wanted.sum(dim=-1, keepdim=True)
    log = found.masked_fill(~seen, float("-inf")).log_softmax(dim=-1).masked_fill(~seen, 0.0)
    return (torch.special.xlogy(wanted, wanted) - wanted * log).sum(dim=-1).mean()


def by_page(x: Tensor, page: int) -> Tensor:
    """Sums over whole pages: `[..., tokens]` -> `[..., tokens / page]`."""
    return x[..., : x.shape[-1] // page * page].unflatten(-1, (-1, page)).sum(dim=-1)


def gate_inputs(lesson: Capture, rows: Tensor, weights: Weights, page: int) -> tuple[Tensor, Tensor]:
    """Queries `[layers, kv_heads, rows, group * head_dim]`, pages `[layers, kv_heads, pages, gate_dim]`."""
    kv_heads = lesson.attention.shape[1]
    queries = lesson.queries[:, rows].unflatten(-1, (kv_heads, -1)).transpose(1, 2)
    keys = lesson.keys.unflatten(-1, (kv_heads, -1)).transpose(1, 2)  # [layers, kv_heads, tokens, head_dim]
    keys = keys[:, :, : keys.shape[2] // page * page]
    real = torch.ones(keys.shape[:-1], dtype=torch.bool)
    return queries, gate.small_pages(gate.pooled(keys, real, page), weights)
