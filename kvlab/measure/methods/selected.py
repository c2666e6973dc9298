"""Which entries a query reads; nothing is dropped.

Patterns shape the prompt, too, but for those called "-decode", whose prompt is read in full.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import kvlab
from kvlab.measure.methods.registry import method, share
from kvlab.measure.quality_runs import Task
from kvlab.selection import Selection, retrieval_heads

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def _select(name: str, about: str, make: Callable[[Decoder, Task], Selection]) -> None:
    method(name, "selection", about, lambda lm, task: {"selection": make(lm, task)})


def _retrieval(lm: Decoder, part: float) -> list[tuple[int, int]]:
    heads = lm.config.num_hidden_layers * lm.config.num_key_value_heads
    return retrieval_heads(lm, int(heads * part))


def _any_heads(lm: Decoder, part: float) -> list[tuple[int, int]]:
    """As many heads as `_retrieval` finds, drawn at random."""
    layers, heads = lm.config.num_hidden_layers, lm.config.num_key_value_heads
    drawn = random.Random(0).sample(range(layers * heads), int(layers * heads * part))
    return sorted(divmod(one, heads) for one in drawn)


def _part(name: str, about: str, make: Callable[[int], Selection], part: float) -> None:
    """A method whose budget is a part of the prompt."""
    _select(f"{name}-{100 * part:g}", f"{about}; {100 * part:g} %", lambda lm, task: make(share(task, part)))


for _p in (0.125, 0.02):
    _part("topk", "the oracle: reads the best, chosen with full scores", kvlab.TopK, _p)
for _p in (0.25, 0.125):
    _part("quest", "pages of 16 by their bounds, layers 0 and 1 in full",
          lambda n: kvlab.Quest(16, max(1, n // 16)), _p)  # fmt: skip
for _n in (16, 8):
    _part(f"sparq-{_n}", f"{_n} channels of 64 score", partial(kvlab.SparQ, _n), 0.125)
for _n in (32, 128, 512):
    _part(f"simhash-{_n}", f"{_n} sign bits score", partial(kvlab.SimHash, _n), 0.125)
_select("lsh-8-75", "sampled by collisions: 8 bits, 75 tables", lambda lm, task: kvlab.LSHSampling(8, 75))
_select("lsh-6-30", "sampled by collisions: 6 bits, 30 tables", lambda lm, task: kvlab.LSHSampling(6, 30))
_select("buckets-16-4", "Reformer's buckets: 16, 4 rounds", lambda lm, task: kvlab.Buckets(16, 4))
_select("pattern-window-25", "the newest 25 %, no sinks",
        lambda lm, task: kvlab.LocalWindow(share(task, 0.25)))  # fmt: skip
_select("pattern-window-25-decode", "the same, after a full prompt",
        lambda lm, task: kvlab.LocalWindow(share(task, 0.25)).after_prompt())  # fmt: skip
_select("pattern-sinks-25", "4 sinks and the newest, 25 % in all",
        lambda lm, task: kvlab.AShape(4, share(task, 0.25, 4)))  # fmt: skip
_select("pattern-sinks-25-decode", "the same, after a full prompt",
        lambda lm, task: kvlab.AShape(4, share(task, 0.25, 4)).after_prompt())  # fmt: skip
_select("pattern-strided-25", "the newest 4, and every fourth: 25 %", lambda lm, task: kvlab.Strided(4))
_select("pattern-dilated-25", "every second of the newest half",
        lambda lm, task: kvlab.Dilated(share(task, 0.25), 2))  # fmt: skip
_select("pattern-columns-25", "its own block of 64, and the last 14 of every block",
        lambda lm, task: kvlab.FixedColumns(64, 14))  # fmt: skip
_select("pattern-bigbird-25", "blocks of 16: 8 newest, 1 first, 7 at random",
        lambda lm, task: kvlab.BigBird(16, max(1, share(task, 0.125) // 16), 1,
                                       max(1, share(task, 0.125) // 16 - 1)))  # fmt: skip
_select("duo-half", "the half of the KV heads that copies most reads all, others 4 + 60",
        lambda lm, task: kvlab.Duo(_retrieval(lm, 0.5), 4, 60))  # fmt: skip
_select("duo-quarter", "the quarter of the KV heads that copies most reads all, others 4 + 60",
        lambda lm, task: kvlab.Duo(_retrieval(lm, 0.25), 4, 60))  # fmt: skip
_select("duo-random-half", "half of the KV heads, drawn at random, read all, others 4 + 60",
        lambda lm, task: kvlab.Duo(_any_heads(lm, 0.5), 4, 60))  # fmt: skip

# --- learned selections: trained on the model's own attention (`kvlab train-indexer`) ---


def _learned(name: str, about: str, make: Callable[[int, str], Selection], part: float) -> None:
    method(f"{name}-{100 * part:g}", "learned", f"{about}; {100 * part:g} %",
           lambda lm, task: {"selection": make(share(task, part), lm.config.name)})  # fmt: skip


for _p in (0.25, 0.125, 0.05):
    _learned("indexer", "what a trained indexer ranks highest", kvlab.Indexer, _p)
for _p in (0.25, 0.125):
    _learned("gate", "pages of 16 that a trained gate ranks highest",
             lambda n, model: kvlab.Gate(max(1, n // 16), model), _p)  # fmt: skip
