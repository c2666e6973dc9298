"""The same weights as another model: in another dtype, or with something else changed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def in_dtype(lm: Decoder, dtype: torch.dtype) -> Decoder:
    """The same model computing in `dtype`: every weight is copied."""
    if lm.dtype == dtype:
        return lm
    weights = {}
    for name, weight in lm.named_parameters():
        plus_one = lm.config.norm_plus_one and "norm" in name  # checkpoints store these less one
        weights[name] = weight.to(dtype) - 1 if plus_one else weight.to(dtype)
    return type(lm).from_weights(lm.config, weights, lm.tokenizer, lm.device, dtype)


def same_weights(lm: Decoder) -> Decoder:
    """A second decoder on the very same tensors, so that something else about it can be changed."""
    shared = [*lm.parameters(), *lm.buffers(), lm.tokenizer, lm.config]
    return copy.deepcopy(lm, {id(thing): thing for thing in shared})
