"""Where a held-out plant does damage: each exercise gives the largest |Δlogit| from full recompute."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from heldout_plants import VOCAB
from torch import Tensor, nn

import kvlab
from kvlab.doctor.subject import Subject
from kvlab.model import Decoder


def ids(rows: int, tokens: int, seed: int = 1) -> Tensor:
    """Tokens that are no special ones."""
    return torch.randint(3, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def feed(step: Callable, text: Tensor, parts: list[int], state: Any = None) -> tuple[Tensor, Any]:
    """Logits of `text`, cut into `parts`, and the state after it."""
    logits = []
    for part in text.split(parts, dim=1):
        out, state = step(part, state)
        logits.append(out)
    return torch.cat(logits, dim=1), state


def chunks(it: Any, rows: int = 1, seed: int = 1) -> float:
    text = ids(rows, 13, seed)
    return gap(feed(it.step, text, [5, 1, 1, 3, 1, 1, 1])[0], it.full(text))


def batch(it: Any) -> float:
    return chunks(it, rows=3, seed=4)


def prefill(it: Any) -> float:
    return gap(feed(it.step, ids(1, 13), [13])[0], it.full(ids(1, 13)))


def long(it: Any) -> float:
    return gap(feed(it.step, ids(1, 40), [8] + [1] * 32)[0], it.full(ids(1, 40)))


def far(it: Any) -> float:
    return gap(feed(it.step, ids(1, 140), [8] + [1] * 132)[0], it.full(ids(1, 140)))


def padding(it: Any) -> float:
    """Two rows, the second with three tokens of padding on its left."""
    whole, short = ids(1, 13), ids(1, 10, seed=2)
    text = torch.cat([whole, torch.cat([torch.zeros_like(short[:, :3]), short], dim=1)])
    mask = torch.arange(13).expand(2, -1) >= torch.tensor([[0], [3]])
    logits, state = [], None
    for part, real in zip(text.split([8, 1, 2, 1, 1], 1), mask.split([8, 1, 2, 1, 1], 1), strict=True):
        out, state = it.step(part, state, real)
        logits.append(out)
    padded = torch.cat(logits, dim=1)
    return max(gap(padded[:1], it.full(whole)), gap(padded[1:, 3:], it.full(short)))


def other_ending(text: Tensor, shared: int) -> Tensor:
    return torch.cat([text[:, :shared], ids(1, text.shape[1] - shared, seed=9)], dim=1)


def fork(it: Any) -> float:
    """Two endings of one beginning, token by token in turn."""
    one = ids(1, 13)
    two = other_ending(one, 6)
    _, a = it.step(one[:, :6], None)
    b, worst = it.fork(a), 0.0
    for i in range(6, 13):
        (x, a), (y, b) = it.step(one[:, i : i + 1], a), it.step(two[:, i : i + 1], b)
        worst = max(worst, gap(x[:, 0], it.full(one)[:, i]), gap(y[:, 0], it.full(two)[:, i]))
    return worst


def crop(it: Any) -> float:
    text, state = ids(1, 13), None
    _, state = feed(it.step, text, [9, 1, 1, 1, 1])
    text = other_ending(text, 9)
    return gap(feed(it.step, text[:, 9:], [1] * 4, it.crop(state, 9))[0], it.full(text)[:, 9:])


def reset(it: Any) -> float:
    _, state = feed(it.step, ids(1, 20), [10] + [1] * 10)
    text = ids(1, 13, seed=9)
    return gap(feed(it.step, text, [5] + [1] * 8, it.reset(state))[0], it.full(text))


def reorder(it: Any) -> float:
    text, rows = ids(3, 13), [1, 2, 0]
    _, state = it.step(text[:, :8], None)
    turned = torch.cat([text[rows, :8], text[:, 8:]], dim=1)
    return gap(feed(it.step, text[:, 8:], [1] * 5, it.reorder(state, rows))[0], it.full(turned)[:, 8:])


def twice(it: Any) -> float:
    """The same call again, as often as chance may need to show."""
    first = it.step(ids(1, 13), None)[0]
    return max(gap(first, it.step(ids(1, 13), None)[0]) for _ in range(8))


def loop(it: Any) -> float:
    """Two prompts one after the other, each continued by the same five tokens."""
    worst, new = 0.0, ids(1, 5, seed=3)
    for seed in (1, 2):
        text = torch.cat([ids(1, 9, seed), new], dim=1)
        worst = max(worst, gap(it.loop(text[:, :9], new[0].tolist()), it.full(text)[0, 8:-1]))
    return worst


def gradients(it: Any) -> float:
    if hasattr(it, "loop"):
        it.loop(ids(1, 9), [3, 4])
        cache = it.loop.held(ids(1, 9))
    else:
        _, cache = it.step(ids(1, 13), None)
    return float(any(layer.keys.requires_grad for layer in cache.layers))


def opened(made: Any) -> Any:
    """`step` or `loop`, and `full`, of whatever a factory makes."""
    if isinstance(made, Subject):
        return made
    if is_loop(made):
        return SimpleNamespace(loop=made, full=getattr(made, "full", None))
    if isinstance(made, Decoder | tuple):
        lm, cache = made if isinstance(made, tuple) else (made, kvlab.Cache(made))
        return SimpleNamespace(step=kvlab_step(lm, cache), full=lm)
    if not isinstance(made, nn.Module):
        return SimpleNamespace(step=made, full=lambda tokens: made(tokens, None)[0])
    if hasattr(made, "attn_layers"):
        return SimpleNamespace(step=whole_or_new(made), full=made)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out = made(tokens, past_key_values=state, use_cache=True)
        return out.logits, out.past_key_values

    return SimpleNamespace(step=step, full=lambda tokens: made(tokens, use_cache=False).logits)


def is_loop(made: Any) -> bool:
    return getattr(made, "__name__", "") == "loop"


def kvlab_step(lm: Decoder, like: kvlab.Cache) -> Callable:
    def step(tokens: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        knobs = {"codec": like.codec, "eviction": like.eviction, "selection": like.selection}
        store = kvlab.Static(like.kind.capacity, len(tokens)) if like.kind.batch else like.kind
        cache = kvlab.Cache(lm, store=store, **knobs) if cache is None else cache
        return lm(tokens, cache), cache

    return step


def whole_or_new(wrapper: Any) -> Callable:
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        text, cache = state or (tokens[:, :0], None)
        text, new = torch.cat([text, tokens], dim=1), tokens.shape[1]
        passed = tokens if wrapper.input_not_include_cache else text
        out, cache = wrapper(passed, cache=cache, return_intermediates=True, cache_age=new)
        return out[:, -new:], (text, cache)

    return step


NEEDS_A_SUBJECT = [padding, fork, crop, reset, reorder]
EXERCISES = {f.__name__: f for f in [chunks, prefill, batch, long, twice, *NEEDS_A_SUBJECT]}
