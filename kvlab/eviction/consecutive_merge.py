"""Neighbours in the text become one entry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.eviction.merging import Merging


class ConsecutiveMerge(Merging):
    """Runs of tokens whose keys are most alike are merged, until `budget` entries are left.

    After KVMerger: "Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context
    Tasks" (Wang et al., 2024), which joins neighbours whose keys have a cosine above a threshold. Here the
    budget sets the threshold, head by head. KVMerger weights by a Gaussian around the most attended key
    of a run; this is a plain mean.

    Raises:
        ValueError: as in `Merging`.
    """

    def line(self, keys: Tensor, loose: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.arange(keys.shape[2], device=keys.device).expand(keys.shape[:3])
        return order, F.cosine_similarity(keys[:, :, 1:], keys[:, :, :-1], dim=-1)
