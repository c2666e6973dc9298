"""The misuses on x-transformers' `TransformerWrapper`, which has two contracts. Tried on version 2.31.10.

By default it wants the whole sequence at every step: it works out positions for all of it, and then keeps
the last `cache_age` (one). With `input_not_include_cache=True` it wants the new tokens only, and counts
positions on from the cache. The keys lie in its cache unrotated and are rotated anew at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kvlab.doctor.gallery.elsewhere import Elsewhere, Way

Positions = Literal["rotary", "learned", "T5 bias", "none"]


def random(positions: Positions = "rotary", **layers: Any) -> Any:
    """A small random decoder, 4 layers of 64; its logits have a standard deviation of about 1.6."""
    from x_transformers import Decoder, TransformerWrapper

    kind = {"rotary": {"rotary_pos_emb": True}, "T5 bias": {"rel_pos_bias": True}}.get(positions, {})
    learned = positions == "learned"
    attention = Decoder(dim=64, depth=4, heads=4, **kind, **layers)
    model = TransformerWrapper(
        num_tokens=256, max_seq_len=128, use_abs_pos_emb=learned, attn_layers=attention
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2, generator=generator)
    return model.eval()


def by_contract(whole: bool, flag: bool) -> Way:
    """The loop that passes the whole sequence, or the last token; flagged as new tokens only, or not."""

    def loop(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
        logits, cache = model(ids, return_intermediates=True)
        said = [logits[:, -1]]
        for token in new[:-1]:
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            fed = ids if whole else ids[:, -1:]
            logits, cache = model(fed, cache=cache, return_intermediates=True, input_not_include_cache=flag)
            said.append(logits[:, -1])
        return torch.cat(said)

    return loop


WAYS = {
    "whole sequence": by_contract(whole=True, flag=False),
    "last token only": by_contract(whole=False, flag=False),
    "last token only, flagged": by_contract(whole=False, flag=True),
    "whole sequence, flagged": by_contract(whole=True, flag=True),
}


def contracts(positions: Positions) -> dict[str, float | None]:
    """Largest |Δlogit| against full recompute of the four loops, for a model with such positions."""
    model = random(positions)
    tried = (Elsewhere(loop, loop, lambda: model).compare() for loop in WAYS.values())
    return {way: found.right_error for way, found in zip(WAYS, tried, strict=True)}


def fed_again(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    _, cache = model(ids, return_intermediates=True)
    return model(ids, cache=cache, return_intermediates=True)[0][:, -1]


def fed_once(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    _, cache = model(ids[:, :-1], return_intermediates=True)
    return model(ids, cache=cache, return_intermediates=True)[0][:, -1]


def left_training(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    model.train()
    try:
        return WAYS["whole sequence"](model, ids, new)
    finally:
        model.eval()


def padded(told: bool) -> Way:
    """Eight tokens of padding in front; the wrapper is told where the text starts, or not."""

    def one(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
        row = torch.cat([torch.zeros(1, 8, dtype=torch.int64), ids], dim=1)
        return model(row, seq_start_pos=torch.tensor([8]) if told else None)[:, -1]

    return one


def two_tokens(cache_age: int) -> Way:
    """Two tokens at once, as in speculative decoding; the wrapper keeps the last `cache_age` of them."""

    def two(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
        _, cache = model(ids[:, :-2], return_intermediates=True)
        logits, _ = model(ids, cache=cache, cache_age=cache_age, return_intermediates=True)
        return logits[:, -1]

    return two
