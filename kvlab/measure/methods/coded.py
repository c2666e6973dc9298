"""Sparse, entropy-coded and low-rank entries; where they learn, from text that nothing is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import kvlab
from kvlab.codecs import Quantize
from kvlab.measure import calibration
from kvlab.measure.methods.registry import method
from kvlab.measure.quality_runs import Task

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def _coded(name: str, family: str, about: str, make: Callable[..., Any], *given: Any) -> None:
    """A codec that is made for the model, `make(lm, *given)`: it may learn from text, once."""
    made: WeakKeyDictionary[Decoder, Any] = WeakKeyDictionary()

    def arguments(lm: Decoder, task: Task) -> dict[str, Any]:
        if lm not in made:
            made[lm] = make(lm, *given)
        return {"codec": made[lm]}

    method(name, family, about, arguments)


# --- sparse entries: zeros that are made, atoms of a dictionary. The newest 32 tokens exact ---
for _keep in (0.7, 0.5, 0.3):
    _coded(f"mustafar-{_keep * 100:.0f}", "sparse", f"the largest {_keep:.0%} of a head vector, and a bitmap",
           lambda lm, keep: kvlab.Mustafar(keep, residual=32), _keep)  # fmt: skip
_coded("mustafar-50-int4", "sparse", "the largest half, in 4 bits, and a bitmap",
       lambda lm: kvlab.Chain(kvlab.Mustafar(0.5, residual=32), Quantize(4, "token", None)))  # fmt: skip
for _s in (8, 16):
    _coded(f"lexico-{_s}", "sparse", f"{_s} of 512 atoms a vector, learned from other text, 4 sinks exact",
           calibration.lexico, _s)  # fmt: skip

# --- entropy-coded entries: levels as a bound asks for; real Huffman streams behind them change nothing ---
for _e in (2, 5, 10):
    _coded(f"bounded-{_e}", "entropy", f"errors within {_e} % of the range; keys by channel, values by token",
           lambda lm, bound: calibration.bounded(bound), _e / 100)  # fmt: skip
    _coded(f"bounded-{_e}-huffman", "entropy", f"the same within {_e} %, in Huffman streams of 128 tokens",
           lambda lm, bound: calibration.bounded(bound, huffman=True), _e / 100)  # fmt: skip

# --- low rank: bases from other text, keys before rotation. 4 sinks and the newest 32 tokens exact ---
for _r in (16, 32, 48):
    _coded(f"rank-k-{_r}", "low rank", f"keys in {_r} of 64 directions", calibration.low_rank, _r, None)
    _coded(f"rank-v-{_r}", "low rank", f"values in {_r} of 64 directions", calibration.low_rank, None, _r)
_coded("rank-k-32-no-sink", "low rank", "keys in 32 of 64 directions, no sink exact",
       calibration.low_rank, 32, None, 0)  # fmt: skip
_coded("rank-v-48-no-sink", "low rank", "values in 48 of 64 directions, no sink exact",
       calibration.low_rank, None, 48, 0)  # fmt: skip
_coded("rank-k-32-rotated", "low rank", "keys in 32 of 64 directions, taken after rotation",
       calibration.low_rank, 32, None, 4, True)  # fmt: skip
_coded("rank-32-48", "low rank", "keys in 32, values in 48 of 64 directions", calibration.low_rank, 32, 48)
_coded("rank-32-48-own", "low rank", "the same ranks in bases of the text's own, one in every 256 tokens",
       lambda lm: calibration.own_basis(32, 48))  # fmt: skip
_coded("rank-32-48-int4", "low rank", "the same ranks, coordinates in 4 bits",
       calibration.low_rank_four_bits, 32, 48)  # fmt: skip
