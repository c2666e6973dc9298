"""What works together: stores, codecs, evictions, selections; and the page of the docs that says so.

A further axis is one more dictionary here (name -> what makes the knob), one table more in `page`, and one
test more beside `test_pairs.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from small import CONFIG, model
from torch import Tensor

from kvlab import (
    CSR,
    H2O,
    KIVI,
    TOVA,
    AdaKV,
    AShape,
    BFloat16,
    BigBird,
    Buckets,
    Cache,
    CacheError,
    Chain,
    ConsecutiveMerge,
    Dilated,
    Duo,
    ErrorBounded,
    FixedColumns,
    Float16,
    Fp8,
    Gate,
    Hadamard,
    Huffman,
    Indexer,
    Int8,
    Lexico,
    LocalWindow,
    Longformer,
    LowRank,
    LSHMerge,
    LSHSampling,
    Mustafar,
    Only,
    OwnBasis,
    PerLayer,
    PyramidKV,
    Quantize,
    Quest,
    RandomKeep,
    Rans,
    SimHash,
    SinkRecent,
    SnapKV,
    SparQ,
    StreamingLLM,
    Strided,
    TopK,
    TurboQuant,
    Window,
)
from kvlab.codecs import BytePlanes
from kvlab.model import TranslatorConfig
from kvlab.model.translator import Translator
from kvlab.selection import ByHead
from kvlab.zoo import weight_shapes

PROMPT, CHUNK, STEPS = 19, 4, 5  # a left-padded prompt, a second chunk, then single tokens
CAPACITY = PROMPT + CHUNK + STEPS
FULL = replace(CONFIG, head_dim=8, layer_types=("full",) * 3, sliding_window=None)
WINDOWS = replace(CONFIG, head_dim=8, layer_types=("sliding", "full", "sliding"))
ALL_WINDOWS = replace(CONFIG, head_dim=8, layer_types=("sliding",) * 3)

TRANSLATOR = TranslatorConfig(
    name="small translator", vocab_size=19, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, encoder_layers=2,
)  # fmt: skip


Makers = dict[str, Callable[[], Any]]  # name -> what makes the knob


@dataclass(frozen=True)
class StoreCase:
    """A store as `Cache` takes it, and a model that it is made for."""

    config: Any
    knobs: dict[str, Any]


def _fixed(name: str) -> dict[str, Any]:
    return {"store": name, "capacity": CAPACITY, "batch": 2}


STORES: dict[str, StoreCase] = {
    "none": StoreCase(FULL, {"store": "none"}),
    "dynamic": StoreCase(FULL, {"store": "dynamic"}),
    "static": StoreCase(FULL, _fixed("static")),
    "sliding": StoreCase(ALL_WINDOWS, {"store": "sliding"}),
    "sliding, fixed": StoreCase(ALL_WINDOWS, _fixed("sliding")),
    "hybrid": StoreCase(WINDOWS, {"store": "hybrid"}),
    "hybrid, fixed": StoreCase(WINDOWS, _fixed("hybrid")),
    "cross": StoreCase(TRANSLATOR, {"store": "cross"}),
}


@functools.cache
def entries() -> tuple[tuple[Tensor, Tensor], ...]:
    """Keys and values of each layer, `[kv_heads, tokens, head_dim]`, that bases are learned from."""
    generator = torch.Generator().manual_seed(9)
    return tuple(
        (torch.randn(2, 60, 8, generator=generator), torch.randn(2, 60, 8, generator=generator))
        for _ in range(3)
    )


CODECS: Makers = {
    "Float16": lambda: Float16(),
    "BFloat16": lambda: BFloat16(),
    "Fp8": lambda: Fp8(),
    "Int8": lambda: Int8(),
    "Quantize, by token": lambda: Quantize(4, "token", 4),
    "Quantize, by token, keys plain": lambda: Quantize(3, "token", 8, plain_keys=True),
    "Quantize, by token, residual": lambda: Quantize(2, "token", 8, residual=5),
    "Quantize, by token, sink": lambda: Quantize(2, "token", 8, sink=3),
    "Quantize, by channel": lambda: Quantize(4, "channel", 4),
    "Quantize, by tensor": lambda: Quantize(8, "tensor", 4, symmetric=True),
    "KIVI": lambda: KIVI(2, 4, residual=8, sink=2),
    "KIVI in one layer": lambda: PerLayer({1: KIVI(4, 4, residual=4)}),
    "Int8 in two layers": lambda: PerLayer({1: None}, default=Int8()),
    "Hadamard, Quantize": lambda: Hadamard(Quantize(4, "token", None)),
    "TurboQuant": lambda: TurboQuant(3),
    "TurboQuant, residual": lambda: TurboQuant(2, residual=4, sink=1),
    "BytePlanes": lambda: BytePlanes(),
    "Mustafar": lambda: Mustafar(0.5),
    "CSR": lambda: CSR(0.5),
    "ErrorBounded": lambda: ErrorBounded(0.05, tokens=4),
    "OwnBasis": lambda: OwnBasis(rank=4, tokens=8, sink=2),
    "LowRank": lambda: LowRank.learn(entries(), rank=4),
    "Lexico": lambda: Lexico.learn(entries(), sparsity=3, atoms=24),
    "Chain: Quantize, Huffman": lambda: Chain(Quantize(4, "token", 8), Huffman(bits=4, tokens=4)),
    "Chain: Quantize, Rans": lambda: Chain(Quantize(4, "channel", 4), Rans(bits=4, tokens=2)),
    "Chain: LowRank, Quantize, Huffman": lambda: Chain(
        LowRank.learn(entries(), rank=4), Chain(Quantize(8, "token", None), Huffman(bits=8, tokens=4))
    ),
}


TOLERANCE = 1e-9  # float64; entries are the same, sums are taken in another order
# Codecs that multiply matrices in float32: how that rounds depends on the processor and on how many entries
# come at once, and now and then it turns a code over.
ROUNDING = 2e-3
ROUNDED = ("Hadamard, Quantize", "TurboQuant", "TurboQuant, residual", "Chain: LowRank, Quantize, Huffman")


def tolerance(codec: str) -> float:
    """How far logits may be apart that are computed from the same entries."""
    return ROUNDING if codec in ROUNDED else TOLERANCE


EVICTIONS: Makers = {
    "Window": lambda: Window(7),
    "StreamingLLM": lambda: StreamingLLM(2, 6),
    "SinkRecent": lambda: SinkRecent(2, 6),
    "H2O": lambda: H2O(9),
    "TOVA": lambda: TOVA(9),
    "SnapKV": lambda: SnapKV(9, window=4),
    "AdaKV": lambda: AdaKV(9, window=4),
    "PyramidKV": lambda: PyramidKV(9, layers=3, window=4),
    "RandomKeep": lambda: RandomKeep(9, sinks=1, recent=3),
    "LSHMerge": lambda: LSHMerge(9, sinks=1, recent=3),
    "ConsecutiveMerge": lambda: ConsecutiveMerge(9, sinks=1, recent=3),
    "H2O in one layer": lambda: Only(H2O(9), layers=[1]),
}


def _weights(*shapes: tuple[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Small weights of a selection that would be trained, for three layers."""
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(3, *shape, generator=generator) for name, shape in shapes}


def _small_sparq() -> SparQ:
    selection = SparQ(r=3, k=4)
    selection.page = 3  # 16 would be more than these evictions keep
    return selection


class InOneLayer(Quest):
    """The middle layer's queries choose, the others read everything."""

    def at(self, layer: int) -> Quest | None:
        return self if layer == 1 else None


SELECTIONS: Makers = {
    "LocalWindow": lambda: LocalWindow(4),
    "LocalWindow, after the prompt": lambda: LocalWindow(4).after_prompt(),
    "AShape": lambda: AShape(2, 3),
    "Dilated": lambda: Dilated(3, 2),
    "Strided": lambda: Strided(4),
    "FixedColumns": lambda: FixedColumns(5, 1),
    "Longformer": lambda: Longformer(3, (0, 7)),
    "BigBird": lambda: BigBird(4, 1, 1, 1),
    "ByHead": lambda: ByHead([None, AShape(2, 3)]),
    "Duo": lambda: Duo({(0, 1), (2, 0), (2, 1)}, 2, 3),
    "TopK": lambda: TopK(3),
    "Quest": lambda: Quest(3, 1, first=0),
    "Quest in one layer": lambda: InOneLayer(3, 1, first=0),
    "SparQ": _small_sparq,
    "SimHash": lambda: SimHash(16, 5),
    "LSHSampling": lambda: LSHSampling(3, 6, 1, 3),
    "Buckets": lambda: Buckets(8, 1, 3),
    "Indexer": lambda: Indexer(5, _weights(("query", (32, 8)), ("weight", (32, 2)), ("key", (16, 4)))),
    "Gate": lambda: Gate(1, _weights(("query", (2, 16, 4)), ("key", (2, 24, 4))), page_size=3),
}


@functools.cache
def lm_of(store: str) -> Any:
    config = STORES[store].config
    if not isinstance(config, TranslatorConfig):
        return model(config=config)
    generator = torch.Generator().manual_seed(0)
    shapes = weight_shapes(config).items()
    drawn = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in shapes}
    weights = {name: 1 + 0.2 * w if "norm" in name else w for name, w in drawn.items()}
    return Translator.from_weights(config, weights, dtype=torch.float64)


@functools.cache
def codec_of(codec: str) -> Any:
    return CODECS[codec]()


def make(store: str, codec: str | None, **more: Any) -> Cache:
    """A cache of that pair.

    Raises:
        CacheError: the pair does not work.
    """
    return Cache(lm_of(store), codec=codec and codec_of(codec), **STORES[store].knobs, **more)


def refusal(store: str, codec: str | None, **more: Any) -> str | None:
    """Why the pair is refused, in one sentence; None: it works."""
    try:
        make(store, codec, **more)
    except CacheError as error:
        return str(error)
    return None


HEAD = """\
# What works together

Every pair below is tried by `tests/test_pairs.py`, `test_evictions_pairs.py` or `test_selections_pairs.py` on
a left-padded batch: a prompt, a second chunk, then single tokens. A pair that works (●) gives the logits of a
plain list of entries, each encoded and decoded when it is due. A pair that does not is refused when the cache
is made, with the sentence that its number stands for. This page is written by `python tests/pairs.py`, and a
test keeps it true.

"""


def general(why: str) -> str:
    """A refusal without the codec's name and the numbers of this case."""
    why = re.sub(r"^\w+ (encodes|keeps) (the newest |the first )?\d+", r"A codec that \1 \2n", why)
    why = re.sub(r"^\w+ (would free|cannot choose)", r"An eviction \1", why)
    why = re.sub(r"^\w+ keeps an index of slots", "A selection by index keeps its slots", why)
    why = re.sub(r"^\w+ indexes keys", "A selection by index sums up keys", why)
    why = re.sub(r", and \w+ (turns them|may keep)", r", and this eviction \1", why)
    return re.sub(r"layer \d+", "layer i", why)


def page() -> str:
    """The page of the docs."""
    sentences: dict[str, int] = {}

    def table(
        title: str, first: str, rows: Makers, columns: dict[str, Callable[[Any], str | None]]
    ) -> list[str]:
        lines = [f"## {title}", "", f"| {first} | " + " | ".join(columns) + " |"]
        lines.append("|---|" + ":-:|" * len(columns))
        for name, knob in rows.items():
            whys = [why(knob()) for why in columns.values()]
            numbers = [w and str(sentences.setdefault(general(w), len(sentences) + 1)) for w in whys]
            lines.append(f"| {name} | " + " | ".join(number or "●" for number in numbers) + " |")
        return lines

    def stores(knob: str) -> dict[str, Callable[[Any], str | None]]:
        return {store: lambda x, s=store: refusal(s, **{"codec": None, knob: x}) for store in STORES}  # type: ignore[misc]

    def evictions() -> dict[str, Callable[[Any], str | None]]:
        made = {name: make() for name, make in EVICTIONS.items()}
        return {
            name: lambda x, e=e: refusal("dynamic", None, eviction=e, selection=x)  # type: ignore[misc]
            for name, e in made.items()
        }

    codecs: Makers = {name: lambda n=name: n for name in CODECS}  # type: ignore[misc]
    lines = table("Stores and codecs", "codec", codecs, stores("codec"))
    lines += ["", *table("Stores and evictions", "eviction", EVICTIONS, stores("eviction"))]
    lines += [
        "",
        "Where a store works with a codec and with an eviction, all three work together; "
        "`tests/test_evictions_pairs.py` tries every triple. A codec of single tokens moves its codes as "
        "they are; one that encodes blocks, or keeps some tokens exact, decodes and encodes anew what an "
        "eviction moves, and every codec what is merged: rounded once more.",
        "",
        *table("Stores and selections", "selection", SELECTIONS, stores("selection")),
        "",
        *table("Evictions and selections, in a dynamic store", "selection", SELECTIONS, evictions()),
        "",
        "Where each two of a store, a codec, an eviction and a selection work together, all four do: "
        "`tests/test_selections_pairs.py` tries a seeded sample in which every pair with a selection occurs, "
        "of every codec, too. "
        "The reference is plain attention over a list of decoded entries, under the same choice as a mask. "
        "What a codec of single tokens wrote is gathered and decoded entry by entry; where tokens share a "
        "block, the whole layer is decoded for each choice, and counted so.",
    ]
    lines += ["", *(f"{number}. {why}" for why, number in sentences.items()), ""]
    lines.append(
        "“fixed” is a store that is allocated at once, with a capacity. A sliding store is tried on a model "
        "whose layers all have a window, a hybrid one on a model with both kinds, a cross store on an "
        "encoder–decoder, whose source goes through the codec too. In a hybrid store, a codec that rings "
        "refuse can still serve the full layers (“KIVI in one layer”)."
    )
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys
    from pathlib import Path

    target = Path(__file__).resolve().parent.parent / "docs" / "COMBINATIONS.md"
    target.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"written: {target.name}\n")
