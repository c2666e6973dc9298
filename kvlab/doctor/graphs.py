"""Which activations autograd keeps alive, wherever their graph is held."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import Tensor


class _Kept:
    """A tensor that autograd saved for the backward pass; the graph holds it, and nobody else."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class Watch:
    """While open, notes what autograd saves. Afterwards `alive()` says how much of it is still held.

    A graph can be kept in a cache, a closure, a global, or an `lru_cache` where no search finds it; what it
    saved stays alive all the same.
    """

    def __enter__(self) -> Watch:
        self._saved: list[weakref.ref[_Kept]] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        self._saved.append(weakref.ref(kept))
        return kept

    def alive(self) -> int:
        """How many saved tensors are still held; let go of the logits before asking."""
        if not self._held():
            return 0
        gc.collect()  # a graph may lie in a cycle that nobody can reach
        return self._held()

    def _held(self) -> int:
        return sum(one() is not None for one in self._saved)
