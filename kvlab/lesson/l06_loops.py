"""Loops that write text with the random numbers given: naive, cached, and one with a cache bug."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kvlab
from kvlab.doctor.loose import Loose
from kvlab.sampling import Sampling

from .l06 import race

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Step = Callable[[Tensor], Tensor]  # new ids [batch, tokens] -> logits of the next token [batch, vocab]


def naive(lm: Decoder) -> Step:
    """No cache: the whole text so far is computed at every step."""
    seen: list[Tensor] = []

    def step(ids: Tensor) -> Tensor:
        seen.append(ids)
        return lm(torch.cat(seen, dim=1), last_only=True)[:, -1]

    return step


def cached(lm: Decoder, **options: Any) -> Step:
    """A `kvlab.Cache(lm, **options)`, used right."""
    cache = kvlab.Cache(lm, **options)
    return lambda ids: lm(ids, cache, last_only=True)[:, -1]


def shifted(lm: Decoder, by: int = -1) -> Step:
    """A cache with a bug: the prompt's positions are right, those of all later tokens are off by `by`."""
    cache = Loose(lm)

    def step(ids: Tensor) -> Tensor:
        past = cache.length
        start = past + by if past else 0
        return cache(ids, torch.arange(start, start + ids.shape[1], device=ids.device))[:, -1]

    return step


@dataclass(frozen=True)
class Written:
    """New tokens `ids [rows, new]`, and the probability of each when it was chosen, at temperature 1."""

    ids: Tensor
    chance: Tensor


def write(
    lm: Decoder, step: Step, prompt: str, sampling: Sampling, new: int = 24, seed: int = 0, rows: int = 1
) -> Written:
    """Let a loop continue a prompt `rows` times, each with random numbers of its own.

    The numbers come from the CPU and depend on the seed alone, so two loops can be given the same ones.
    A stop token stops nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    given = torch.tensor([lm.tokenizer.encode(prompt)] * rows, device=lm.device)
    ids, chance = [], []
    for _ in range(new):
        logits = step(given).float().cpu()  # [rows, vocab]
        u = torch.rand(logits.shape, dtype=torch.float64, generator=generator)
        token = race(sampling.probabilities(logits), u)  # [rows]
        ids.append(token)
        chance.append(logits.softmax(dim=-1).gather(1, token[:, None])[:, 0])
        given = token[:, None].to(lm.device)
    return Written(torch.stack(ids, dim=1), torch.stack(chance, dim=1))


def logits_along(lm: Decoder, step: Step, prompt: str, ids: Sequence[int]) -> Tensor:
    """What a loop says while it is fed a given text, whatever it would have chosen: `[tokens, vocab]`.

    Row i are the logits that token i is chosen from. Two loops fed the same text can be compared row by row.
    """
    given = [lm.tokenizer.encode(prompt), *([i] for i in ids[:-1])]
    rows = [step(torch.tensor([part], device=lm.device))[0] for part in given]
    return torch.stack(rows).cpu()


def logits_at_once(lm: Decoder, prompt: str, ids: Sequence[int]) -> Tensor:
    """The same `[tokens, vocab]` without a cache, in one forward pass over the whole text."""
    given = lm.tokenizer.encode(prompt)
    text = torch.tensor([[*given, *ids[:-1]]], device=lm.device)
    return lm(text)[0, len(given) - 1 :].cpu()


def surprise(lm: Decoder, prompt: str, ids: Tensor) -> float:
    """How surprising the model, computed right, finds texts `ids [rows, new]`: nats a token, the mean."""
    before = torch.tensor(lm.tokenizer.encode(prompt), device=lm.device).expand(len(ids), -1)
    text = torch.cat((before, ids.to(lm.device)), dim=1)
    logits = lm(text[:, :-1])[:, before.shape[1] - 1 :].float()
    return float(F.cross_entropy(logits.flatten(0, 1), text[:, before.shape[1] :].flatten()))


@contextmanager
def dropout(lm: Decoder, p: float = 0.1) -> Iterator[None]:
    """Give every MLP a dropout, as many models are trained with; it acts in train mode only.

    Leaves the model in eval mode, without dropout.
    """
    blocks: list[Any] = list(lm.layers)

    def drop(module: Any, _given: Any, out: Tensor) -> Tensor:
        return F.dropout(out, p, training=module.training)

    handles = [block.mlp.register_forward_hook(drop) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        lm.eval()
