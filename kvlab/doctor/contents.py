"""What lies in a cache, layer by layer, and which column of a text each of its slots claims to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.doctor.patient import DoctorError
from kvlab.doctor.reference import Reference
from kvlab.model.rotary import angles, rotate


@dataclass
class Kept:
    """One layer. keys, values: `[rows, kv_heads, slots, head_dim]`; columns: `[rows, slots]`, the column of
    the ids that a slot claims to hold, counted on behind their end; -1: it holds nothing.
    """

    keys: Tensor
    values: Tensor
    columns: Tensor
    window: int | None = None  # tokens that a store with a window keeps


def contents(cache: Any, reference: Reference, real: Tensor) -> list[Kept]:
    """Every layer of a kvlab or transformers cache. real: `[rows, tokens]`, False where the ids are padding.

    Raises:
        DoctorError: this is no such cache, it is empty, or it is of another model.
    """
    layers = _of_kvlab(cache, reference, real) if isinstance(cache, Cache) else _of_lists(cache, real)
    rows = {layer.keys.shape[0] for layer in layers}
    if rows != {len(real)}:
        raise DoctorError(f"the cache holds {rows.pop()} row(s), and ids have {len(real)}.")
    return layers


def _of_kvlab(cache: Cache, reference: Reference, real: Tensor) -> list[Kept]:
    if cache.config != getattr(reference.model, "config", None):
        raise DoctorError(f"this cache was made for {cache.config.name}, and this is another model.")
    if cache.kind.recomputes:
        raise DoctorError(
            'store="none" keeps no entries that could be wrong: every step computes them again.'
        )
    if cache.ledger is None or not cache.used:
        raise DoctorError("this cache is empty: pass the ids to the model with it first.")
    kept = []
    for i, layer in enumerate(cache.layers):
        stored: Any = layer
        positions = layer.positions(cache.ledger)[:, 0].cpu().long()  # [rows, slots]
        keys, values = stored.keys.read(), stored.values.read()
        if layer.knobs.plain_keys:  # they are rotated when they are read
            attention = reference.model.layers[i].self_attn
            at = layer.positions(cache.ledger).clamp(min=0)
            keys = rotate(keys, *angles(at, attention.frequencies, keys.dtype))
        window = getattr(layer, "window", None)
        kept.append(Kept(keys.cpu(), values.cpu(), _columns(positions, real), window))
    return kept


def _columns(positions: Tensor, real: Tensor) -> Tensor:
    """Positions count real tokens; columns count padding too."""
    columns = torch.full_like(positions, -1)
    for row, mask in enumerate(real):
        at = mask.nonzero().flatten()
        more = torch.arange(len(mask), len(mask) + int(positions.max()) + 1)
        known = positions[row] >= 0
        columns[row, known] = torch.cat((at, more))[positions[row, known]]
    return columns


def _of_lists(cache: Any, real: Tensor) -> list[Kept]:
    """Layers with `.keys` and `.values` in order, as transformers' caches have them."""
    layers = list(getattr(cache, "layers", []) or [])
    tensors: list[Any] = [(getattr(one, "keys", None), getattr(one, "values", None)) for one in layers]
    if not layers or not all(isinstance(k, Tensor) and isinstance(v, Tensor) for k, v in tensors):
        raise DoctorError(
            "the doctor looks into kvlab's and transformers' caches, and into anything whose `layers` have "
            f"`keys` and `values` [rows, kv_heads, slots, head_dim]; not into {type(cache).__name__}, or it "
            "is empty."
        )
    kept = []
    for layer, (keys, values) in zip(layers, tensors, strict=True):
        told = getattr(layer, "get_seq_length", None)
        seen = keys.shape[2] if told is None else int(told())
        used = min(seen, keys.shape[2])
        columns = torch.arange(seen - used, seen).repeat(len(keys), 1)
        columns = columns.masked_fill(_padding(columns, real), -1) if len(keys) == len(real) else columns
        window = keys.shape[2] if getattr(layer, "is_sliding", False) and used < seen else None
        kept.append(Kept(keys[:, :, :used].cpu(), values[:, :, :used].cpu(), columns, window))
    return kept


def _padding(columns: Tensor, real: Tensor) -> Tensor:
    within = columns < real.shape[1]
    return within & ~real.gather(1, columns.clamp(max=real.shape[1] - 1))


def recomputed(reference: Reference, ids: Tensor, real: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The entries that these ids give by full recompute, each row's tokens at their own positions."""
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    return [(keys.cpu(), values.cpu()) for keys, values in reference.entries(ids, positions, causal(real))]


def causal(real: Tensor) -> Tensor:
    """`[rows, tokens, tokens]`: everything real up to and with the query; padding sees itself only."""
    order = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).tril()
    return real[:, None, :] & order | torch.diag_embed(~real)
