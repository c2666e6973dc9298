"""Some heads read everything, the others the first tokens and the newest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, Selection
from kvlab.selection.pattern import Pattern
from kvlab.selection.patterns import AShape

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder
    from kvlab.stores.base import Knobs, Step, View


class ByHead(Selection):
    """Each KV head of a layer has its own pattern, or reads everything.

    patterns: one for each KV head; None: everything.

    Raises:
        ValueError: a selection that is no fixed pattern; when a cache is made, another number of heads.
    """

    def __init__(self, patterns: Collection[Pattern | None]):
        for one in patterns:
            if one is not None and not isinstance(one, Pattern):
                raise ValueError(f"ByHead takes fixed patterns, and {type(one).__name__} is none.")
        self.patterns = tuple(patterns)

    def runs(self, kv_heads: int) -> list[tuple[slice, Selection | None]]:
        found: list[tuple[slice, Selection | None]] = []
        for head, pattern in enumerate(self.patterns):
            if found and found[-1][1] is pattern:
                found[-1] = (slice(found[-1][0].start, head + 1), pattern)
            else:
                found.append((slice(head, head + 1), pattern))
        return found

    def refuse(self, knobs: Knobs, kv_heads: int) -> None:
        if len(self.patterns) != kv_heads:
            raise ValueError(
                f"this layer has {kv_heads} KV head(s) and was given {len(self.patterns)} pattern(s)."
            )

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        raise NotImplementedError("the patterns of the heads choose")  # `runs` hands over to them


class Duo(Selection):
    """DuoAttention's division of labour (Xiao et al., 2024): retrieval heads read everything.

    The other KV heads read the first `sinks` tokens and the newest `recent`. The paper learns which are
    which by gradient descent; `retrieval_heads` finds them by how much they copy.

    retrieval: (layer, KV head) of those that read everything.

    Raises:
        ValueError: if `sinks` or `recent` is less than 1, or a layer or head negative.
    """

    def __init__(self, retrieval: Collection[tuple[int, int]], sinks: int = 4, recent: int = 252):
        if any(layer < 0 or head < 0 for layer, head in retrieval):
            raise ValueError("Duo needs (layer, KV head) pairs from 0 on.")
        self.retrieval = frozenset(retrieval)
        self.streaming = AShape(sinks, recent)

    def at(self, layer: int) -> Selection:
        return _DuoLayer(self, frozenset(head for at, head in self.retrieval if at == layer))

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        raise NotImplementedError("the heads of a layer choose")


class _DuoLayer(Selection):
    def __init__(self, duo: Duo, retrieval: frozenset[int]):
        self.duo, self.retrieval = duo, retrieval

    def runs(self, kv_heads: int) -> list[tuple[slice, Selection | None]]:
        patterns = [None if head in self.retrieval else self.duo.streaming for head in range(kv_heads)]
        return ByHead(patterns).runs(kv_heads)

    def refuse(self, knobs: Knobs, kv_heads: int) -> None:
        wrong = [head for head in self.retrieval if head >= kv_heads]
        if wrong:
            raise ValueError(f"Duo was given KV head {wrong[0]}, but a layer has {kv_heads}, counted from 0.")

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        raise NotImplementedError("the heads of the layer choose")


@torch.no_grad()
def copy_scores(lm: Decoder, tokens: int = 64, seed: int = 0) -> Tensor:
    """How much each query head copies, `[layers, heads]`, from 0 to 1 (induction; Olsson et al., 2022).

    Random tokens are shown twice; the score is the attention that a token of the second half gives, on
    average, to the token behind its first appearance: the one to say next.
    """
    from kvlab.record import record

    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(lm.config.vocab_size, (1, tokens), generator=generator)
    with record(lm) as rec:
        lm(torch.cat((once, once), dim=1).to(lm.device))
    at = torch.arange(tokens, 2 * tokens - 1, device=lm.device)
    scores = [rec.attention[layer][0, :, at, at - tokens + 1].mean(dim=-1) for layer in sorted(rec.attention)]
    return torch.stack(scores)


def retrieval_heads(lm: Decoder, count: int, scores: Tensor | None = None) -> list[tuple[int, int]]:
    """The `count` KV heads, (layer, KV head), with a query head that copies most.

    scores: as of `copy_scores`; None: measured now.

    Raises:
        ValueError: if `count` is not between 0 and the number of KV heads.
    """
    config = lm.config
    most = config.num_hidden_layers * config.num_key_value_heads
    if not 0 <= count <= most:
        raise ValueError(f"this model has {most} KV heads; {count} of them cannot be chosen.")
    scores = copy_scores(lm) if scores is None else scores
    by_group = scores.unflatten(1, (config.num_key_value_heads, -1)).amax(dim=-1).flatten()
    chosen: Mapping[int, None] = dict.fromkeys(by_group.topk(count).indices.tolist())
    return sorted(divmod(i, config.num_key_value_heads) for i in chosen)
