"""The misuses of transformers' caches: kept, shared, filled, cropped, padded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.in_transformers import empty


def go_on(model: Any, cache: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    """Logits `[new, vocab]` after `ids`, which come after what the cache holds."""
    logits = [model(ids, past_key_values=cache).logits[:, -1]]
    for token in new[:-1]:
        logits.append(model(torch.tensor([[token]]), past_key_values=cache).logits[:, -1])
    return torch.cat(logits)


def filled(model: Any, ids: Tensor) -> Any:
    cache = empty(model)
    model(ids, past_key_values=cache)
    return cache


def generate(model: Any, ids: Tensor, cache: Any) -> Tensor:
    """The logits `[1, vocab]` of the first token that `generate` chooses."""
    out = model.generate(
        ids, past_key_values=cache, max_new_tokens=1, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return out.logits[0]


# A cache that covers the whole prompt, given to `generate`


def covering(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return generate(model, ids, filled(model, ids))


def all_but_last(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return generate(model, ids, filled(model, ids[:, :-1]))


# A cache of another prompt, given to `generate`


def of_another(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return generate(model, ids, filled(model, ids.flip(1)[:, :-1]))


# A prefix shared by two questions


def shared(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    prefix, question = ids.tensor_split(2, dim=1)
    cache = filled(model, prefix)
    go_on(model, cache, question.flip(1), new)
    return go_on(model, cache, question, new)


def copied(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    prefix, question = ids.tensor_split(2, dim=1)
    cache = filled(model, prefix)
    go_on(model, copy.deepcopy(cache), question.flip(1), new)
    return go_on(model, copy.deepcopy(cache), question, new)


# A static cache: used again, and too small


def static(model: Any, capacity: int) -> Any:
    from transformers import StaticCache

    return StaticCache(config=model.config, max_cache_len=capacity)


def not_reset(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    cache = static(model, 128)
    go_on(model, cache, ids.flip(1), new)
    return go_on(model, cache, ids, new)


def reset(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    cache = static(model, 128)
    go_on(model, cache, ids.flip(1), new)
    cache.reset()
    return go_on(model, cache, ids, new)


def too_small(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return go_on(model, static(model, ids.shape[1] + len(new) // 2), ids, new)


def large_enough(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return go_on(model, static(model, ids.shape[1] + len(new)), ids, new)


# The rows of a batch change places


def two_rows(model: Any, ids: Tensor, new: Sequence[int], reorder: bool) -> Tensor:
    """Row 0 goes on with what was row 1."""
    cache = filled(model, torch.cat([ids.flip(1), ids])[:, :-1])
    if reorder:
        cache.reorder_cache(torch.tensor([1, 1]))
    return model(ids[:, -1:].expand(2, 1), past_key_values=cache).logits[:1, -1]


def rows_moved(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return two_rows(model, ids, new, reorder=False)


def cache_moved(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return two_rows(model, ids, new, reorder=True)


# Left padding, in a model with learned positions and in one with rotary ones


def padded(model: Any, ids: Tensor, mask: bool, positions: bool, pads: int = 8) -> Tensor:
    """Logits `[1, vocab]` after `ids` behind `pads` tokens of padding."""
    real = torch.ones(1, pads + ids.shape[1], dtype=torch.int64)
    real[:, :pads] = 0
    row = torch.cat([torch.ones(1, pads, dtype=torch.int64), ids], dim=1)
    told = {"attention_mask": real} if mask else {}
    if positions:
        told["position_ids"] = (real.cumsum(-1) - 1).clamp(min=0)
    return model(row, **told).logits[:, -1]


def unmasked(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return padded(model, ids, mask=False, positions=True)


def without_positions(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return padded(model, ids, mask=True, positions=False)


def told_both(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return padded(model, ids, mask=True, positions=True)


# A window: taking tokens back


def crop(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    cache = filled(model, ids)
    model(ids[:, :4], past_key_values=cache)
    cache.crop(-5)
    return go_on(model, cache, ids[:, -1:], new)


def crop_recorded(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    cache = filled(model, ids[:, :-1])
    cache.activate_past_recording()
    model(torch.cat([ids[:, -1:], ids[:, :4]], dim=1), past_key_values=cache)
    cache.crop(-5)
    return go_on(model, cache, ids[:, -1:], new)
