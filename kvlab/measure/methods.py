"""Every way to keep a cache that the course compares, under the name that `kvlab bench quality` knows.

A method is a line here: its name, its family, the arguments of `kvlab.Cache` that make it for a task (a
budget may be a share of the prompt), and what it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import kvlab
from kvlab.cache import Cache
from kvlab.codecs import KIVI, Codec, Quantize
from kvlab.codecs.quantize import Axis
from kvlab.measure import calibration
from kvlab.measure.quality_runs import Factory, Task
from kvlab.selection import Selection, retrieval_heads

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@dataclass(frozen=True)
class Method:
    """`arguments(lm, task)` gives the keyword arguments of `kvlab.Cache`."""

    name: str
    family: str
    about: str
    arguments: Callable[[Decoder, Task], dict[str, Any]]

    def factory(self, lm: Decoder) -> Factory:
        """Makes its caches for `lm`."""
        return lambda task: Cache(lm, **self.arguments(lm, task))


METHODS: dict[str, Method] = {}


def method(
    name: str, family: str, about: str, arguments: Callable[[Decoder, Task], dict[str, Any]]
) -> Method:
    """Add a method to METHODS.

    Raises:
        ValueError: the name is taken.
    """
    if name in METHODS:
        raise ValueError(f"there is a method {name!r} already; give yours another name.")
    METHODS[name] = Method(name, family, about, arguments)
    return METHODS[name]


def find_methods(names: list[str], family: str | None = None) -> list[Method]:
    """The methods of these names, of a family, or all; in the order of METHODS.

    Raises:
        ValueError: a name or family that there is not.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    families = list(dict.fromkeys(m.family for m in METHODS.values()))
    if family is not None and family not in families:
        raise ValueError(f"there is no family {family!r}; there are {', '.join(families)}.")
    chosen = [m for m in METHODS.values() if not names or m.name in names]
    return [m for m in chosen if family is None or m.family == family]


def share(task: Task, part: float, less: int = 0) -> int:
    """So many entries: `part` of the prompt, less some that are counted apart; at least one."""
    return max(1, int(task.prompt * part) - less)


def _static(lm: Decoder, task: Task) -> dict[str, Any]:
    return {"store": "static", "capacity": task.total, "batch": task.rows}


# --- references: what all others are compared with ---
method("full", "reference", "every entry, exact", lambda lm, task: {})
method("static", "reference", "every entry, exact, preallocated", _static)
method("oracle-25", "reference", "reads the best 25 % of the entries, chosen with full scores",
       lambda lm, task: {"selection": kvlab.TopK(k=share(task, 0.25))})  # fmt: skip
method("window-25", "reference", "the newest 25 % only",
       lambda lm, task: {"eviction": kvlab.SinkRecent(sinks=0, recent=share(task, 0.25))})  # fmt: skip
method("sink-window-25", "reference", "4 sinks and the newest, 25 % in all",
       lambda lm, task: {"eviction": kvlab.SinkRecent(sinks=4, recent=share(task, 0.25, 4))})  # fmt: skip

# --- quantization: in how many bits, along which axis. Groups of 32, the newest 32 tokens exact ---


def _codec(name: str, about: str, codec: Codec | tuple[Codec, Codec]) -> None:
    method(name, "quantization", about, lambda lm, task: {"codec": codec})


def _uniform(bits: int, axis: Axis, sink: int = 0, symmetric: bool = False) -> Quantize:
    return Quantize(bits, axis, group_size=32, residual=32, sink=sink, symmetric=symmetric)


_codec("fp16", "half precision", kvlab.Float16())
_codec("bf16", "bfloat16", kvlab.BFloat16())
_codec("fp8", "e4m3, one scale a token", kvlab.Fp8())
_codec("int8", "8 bits, symmetric, one scale a token", kvlab.Int8())
_codec("tensor-4", "4 bits, one scale for all channels of 32 tokens", _uniform(4, "tensor"))
_codec("swapped-2", "2 bits, KIVI's axes swapped: keys by token, values by channel",
       (_uniform(2, "token"), _uniform(2, "channel")))  # fmt: skip
for _b in (4, 3, 2):
    _codec(f"token-{_b}", f"{_b} bits, keys and values by token", _uniform(_b, "token"))
    _codec(f"token-{_b}-sink", f"{_b} bits by token, 4 sinks exact", _uniform(_b, "token", sink=4))
    _codec(f"token-{_b}-symmetric", f"{_b} bits by token, levels around zero",
           _uniform(_b, "token", symmetric=True))  # fmt: skip
    _codec(f"channel-{_b}", f"{_b} bits, keys and values by channel", _uniform(_b, "channel"))
    _codec(f"channel-{_b}-sink", f"{_b} bits by channel, 4 sinks exact", _uniform(_b, "channel", sink=4))
    _codec(f"kivi-{_b}", f"{_b} bits, keys by channel, values by token", KIVI(_b, 32, residual=32))
    _codec(f"kivi-{_b}-sink", f"{_b} bits, KIVI, 4 sinks exact", KIVI(_b, 32, residual=32, sink=4))
_codec("kivi-2-residual-0", "2 bits, KIVI, no exact window but the block that fills", KIVI(2, 32, residual=0))
_codec("kivi-2-residual-128", "2 bits, KIVI, the newest 128 exact", KIVI(2, 32, residual=128))


def _given(codec: Codec | tuple[Codec, Codec]) -> Callable[[Decoder, Task], dict[str, Any]]:
    return lambda lm, task: {"codec": codec}


# --- rotation and codebooks, keys before rotary: 4 sinks and the newest 32 tokens exact ---
for _b in (4, 3, 2):
    for _name, _about, _made in (
        (f"hadamard-{_b}", f"{_b} bits by token after a Hadamard rotation",
         kvlab.Hadamard(Quantize(_b, "token", 32, residual=32, sink=4))),
        (f"hadamard-head-{_b}", f"{_b} bits after a Hadamard rotation, one scale a head vector",
         kvlab.Hadamard(Quantize(_b, "token", None, residual=32, sink=4))),
        (f"turbo-{_b}", f"{_b} bits in a Lloyd-Max codebook after rotation, lengths apart",
         kvlab.TurboQuant(_b, residual=32, sink=4)),
        (f"plain-kivi-{_b}", f"{_b} bits, KIVI's axes, keys before rotary",
         (Quantize(_b, "channel", 32, residual=32, sink=4, plain_keys=True), _uniform(_b, "token", sink=4))),
    ):  # fmt: skip
        method(_name, "rotation", _about, _given(_made))


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


def _fewer(name: str, about: str, make: Callable[[Decoder, int], Any]) -> None:
    """An eviction at three budgets, `make(lm, entries)`: a half, a quarter and an eighth of the prompt."""

    def at(share: int) -> Callable[[Decoder, Task], dict[str, Any]]:
        return lambda lm, task: {"eviction": make(lm, task.prompt // share)}

    for share in (2, 4, 8):
        if f"{name}-{100 // share}" not in METHODS:
            method(f"{name}-{100 // share}", "eviction", f"{about}; 1/{share} of the prompt", at(share))


def _last(budget: int) -> int:
    """Newest entries that are always kept: 32, or half of a small budget."""
    return min(32, budget // 2)


# --- fewer entries: who stays. SnapKV and its kin choose once, after the prompt; the others at every step ---
_fewer("window", "the newest, no sinks", lambda lm, n: kvlab.Window(n))
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

# --- selection: which entries a query reads; nothing is dropped. Patterns shape the prompt, too, but for
# those called "-decode", whose prompt is read in full ---


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
