"""Fewer entries: who stays. SnapKV and its kin choose once, after the prompt; the others at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kvlab
from kvlab.measure.methods.registry import method
from kvlab.measure.quality_runs import Task

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def _fewer(name: str, about: str, make: Callable[[Decoder, int], Any]) -> None:
    """An eviction at three budgets, `make(lm, entries)`: a half, a quarter and an eighth of the prompt."""

    def at(share: int) -> Callable[[Decoder, Task], dict[str, Any]]:
        return lambda lm, task: {"eviction": make(lm, task.prompt // share)}

    for share in (2, 4, 8):
        method(f"{name}-{100 // share}", "eviction", f"{about}; 1/{share} of the prompt", at(share))


def _last(budget: int) -> int:
    """Newest entries that are always kept: 32, or half of a small budget."""
    return min(32, budget // 2)


_fewer("window", "the newest, no sinks", lambda lm, n: kvlab.Window(n))
_fewer("sink-window", "4 sinks and the newest", lambda lm, n: kvlab.SinkRecent(sinks=4, recent=n - 4))
_fewer(
    "streaming", "4 sinks and the newest, positions counted anew", lambda lm, n: kvlab.StreamingLLM(4, n - 4)
)
_fewer("h2o", "half the newest, half those with most attention so far", lambda lm, n: kvlab.H2O(n))
_fewer("tova", "what the last query attends to", lambda lm, n: kvlab.TOVA(n))
_fewer("snapkv", "what the prompt's last 32 queries attend to", lambda lm, n: kvlab.SnapKV(n, _last(n)))
_fewer("snapkv-wide", "SnapKV from 16 queries, pooled over 13 neighbours",
       lambda lm, n: kvlab.SnapKV(n, min(16, n // 2), kernel=13))  # fmt: skip
_fewer("adakv", "SnapKV, one budget for a layer's heads", lambda lm, n: kvlab.AdaKV(n, _last(n)))
_fewer("pyramidkv", "SnapKV, less from layer to layer",
       lambda lm, n: kvlab.PyramidKV(n, lm.config.num_hidden_layers, _last(n)))  # fmt: skip
_fewer(
    "random", "4 sinks, the newest 32, and others at random", lambda lm, n: kvlab.RandomKeep(n, 4, _last(n))
)
_fewer("merge-lsh", "entries with like hashes merged", lambda lm, n: kvlab.LSHMerge(n, 4, _last(n)))
_fewer(
    "merge-neighbours", "runs of like neighbours merged", lambda lm, n: kvlab.ConsecutiveMerge(n, 4, _last(n))
)
_fewer("merge-neighbours-uncounted", "the same, without log(count)",
       lambda lm, n: kvlab.ConsecutiveMerge(n, 4, _last(n), counted=False))  # fmt: skip
