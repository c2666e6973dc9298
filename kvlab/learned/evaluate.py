"""How much of the attention a choice of entries holds, on text that was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kvlab.learned.capture import Capture
from kvlab.learned.train import by_page, gate_inputs
from kvlab.selection import gate, indexer
from kvlab.selection.quest import bounds, upper
from kvlab.selection.trained import Weights

SINKS = 4
FROM = 512  # rows before this position see too little for a share of it to mean anything


def mass_by_layer(
    lessons: Sequence[Capture], shares: Sequence[float], trained: dict[str, Weights], page: int = gate.PAGE
) -> dict[str, dict[float, list[float]]]:
    """method -> share of the entries -> mean attention held, by layer.

    trained: "indexer" and "gate", those that there are. Beside them: the oracle (the same entries for all
    heads, and for each KV head), sinks and recent tokens, and Quest. Each method reads so many entries: what
    works by page reads whole pages.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for share in shares:
        sums: dict[str, Tensor] = {}
        for lesson in lessons:
            for name, held in _held(lesson, share, trained, page).items():
                sums[name] = sums.get(name, torch.zeros(())) + held
        for name, total in sums.items():
            found.setdefault(name, {})[share] = (total / len(lessons)).tolist()
    return found


def _held(lesson: Capture, share: float, trained: dict[str, Weights], page: int) -> dict[str, Tensor]:
    """method -> `[layers]`, the mean over the later rows of one window."""
    rows = (lesson.at >= FROM).nonzero().flatten()
    attention, seen = lesson.attention[:, :, rows], lesson.seen[rows]
    attention = attention / attention.sum(dim=-1, keepdim=True)  # [layers, kv_heads, rows, tokens]
    whole = attention.mean(dim=1)
    budget = (seen.sum(dim=-1) * share).long().clamp(min=SINKS + 1)  # [rows]
    newest = lesson.at[rows][:, None] - torch.arange(lesson.keys.shape[1])  # tokens back, [rows, tokens]
    near = seen & ((newest < budget[:, None] - SINKS) | (newest >= lesson.at[rows][:, None] - SINKS + 1))
    held = {
        "oracle": _best(whole, whole, budget, seen),
        "oracle by head": _best(attention, attention, budget, seen).mean(dim=1),
        "sinks + recent": (whole * near).sum(dim=-1).mean(dim=-1),
    }
    if "indexer" in trained:
        weights = trained["indexer"]
        scores = indexer.scores(lesson.queries[:, rows], indexer.small_keys(lesson.keys, weights), weights)
        held["indexer"] = _best(scores, whole, budget, seen)
    pages, some = by_page(attention, page), by_page(seen, page) > 0
    fewer = (budget // page).clamp(min=1)
    kv_heads = attention.shape[1]
    keys = lesson.keys.unflatten(-1, (kv_heads, -1)).transpose(1, 2)
    keys = keys[:, :, : pages.shape[-1] * page]
    edges = bounds(keys, torch.ones(keys.shape[:-1], dtype=torch.bool), page)
    q = lesson.queries[:, rows].unflatten(-1, (kv_heads, -1, keys.shape[-1])).permute(0, 2, 3, 1, 4)
    limits = torch.stack([upper(group, edges) for group in q.unbind(dim=2)], dim=2)
    limits = (limits * keys.shape[-1] ** -0.5).masked_fill(
        ~some, float("-inf")
    )  # [layers, kv, group, rows, pages]
    held["Quest"] = _best(limits.softmax(dim=-1).sum(dim=2), pages, fewer, some).mean(dim=1)
    if "gate" in trained:
        found = gate.scores(*gate_inputs(lesson, rows, trained["gate"], page), trained["gate"])
        held["gate"] = _best(found, pages, fewer, some).mean(dim=1)
    return held


def _best(scores: Tensor, attention: Tensor, budget: Tensor, seen: Tensor) -> Tensor:
    """Attention on the `budget [rows]` items that score highest, `[..., rows, items]` -> mean over rows."""
    order = scores.masked_fill(~seen, float("-inf")).argsort(dim=-1, descending=True)
    chosen = torch.arange(scores.shape[-1]) < budget[:, None]  # [rows, items], by rank
    return (attention.gather(-1, order) * chosen).sum(dim=-1).mean(dim=-1)
