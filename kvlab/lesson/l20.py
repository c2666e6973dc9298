"""What lesson 20 reads of the recorded run of `kvlab bench together`, and the claims of the whole course."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import kvlab
from kvlab.measure.quality_runs import uncoded_bytes
from kvlab.measure.quality_stats import each_needle, geometric
from kvlab.measure.together import FULL
from kvlab.model.config import Config

from .recorded import Recorded
from .tables import plain_table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

ALL = "int4 + SnapKV + Quest"
# (lesson, name of the claim there, the claim, the verdict): what the articles said that the course began with
CLAIMS = (
    ("03", "linear", "A KV cache makes the quadratic cost of generation linear.", "depends"),
    ("04", "whole", "With a cache, too, pass the whole text at every step.", "depends"),
    ("07", "50", "At 100,000 tokens the cache of Llama-2-7B takes 50 GB.", "depends"),
    ("10", "pre", "A hybrid cache saves memory because it is preallocated.", "false"),
    ("11", "once", "In translation, keys and values of the source are computed once and reused for every "
                   "word of the translation.", "true"),
    ("12", "shrink", "Going from 32 bits to 4 makes a cache eight times smaller.", "false"),
    ("14", "zeros", "Many keys and values are zero, so storing only the others saves memory.", "false"),
    ("14", "entropy", "Huffman coding compresses a quantized cache further, without any loss.", "depends"),
    ("17", "dynamic", "Windows, strides and random blocks are dynamic sparse attention.", "false"),
    ("18", "eighth", "Whoever reads an eighth of the entries is eight times faster.", "false"),
    ("19", "better", "Learned sparse patterns find what fixed ones miss.", "depends"),
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to keep a long context, as it was recorded. Shares are of a cache that holds 16 bits."""

    name: str
    held: float  # share of the bytes
    read: float  # share of the bytes that a step reads
    kl: float  # nats a token, geometric mean over the texts; NaN: not measured
    right: int
    asked: int
    times: float  # how many times faster than 16 bits; NaN: not measured


def ways(run: Recorded, model: str = "smollm2-135m") -> dict[str, Way]:
    """Way -> what was recorded of it. What is not coded was held in float32 and counts 16 bits here."""
    rows = {row["way"]: row for row in run.select(model=model)}
    base = rows[FULL]["bytes"]
    return {name: _way(name, row, base) for name, row in rows.items()}


def _way(name: str, row: Mapping[str, Any], base: Mapping[str, int]) -> Way:
    b, hits = row["bytes"], each_needle(row.get("needles", {}))
    return Way(
        name,
        held=(b["stored"] - b["uncoded"] / 2) / base["stored"],
        read=(b["read"] - min(b["read"], b["uncoded"]) / 2) / base["read"],
        kl=geometric(row["kl"]).mean if "kl" in row else math.nan,
        right=sum(hits),
        asked=len(hits),
        times=row.get("times_full", math.nan),
    )


def lines(found: Mapping[str, Way]) -> str:
    """A line for each way."""
    out = [f"{'':>21}  held  read     KL  needles"]
    for w in found.values():
        far = "" if math.isnan(w.kl) else f"{w.kl:6.3f}"
        found_all = f"   {w.right} of {w.asked}" if w.asked else ""
        out.append(f"{w.name:>21}  {w.held:4.0%}  {w.read:4.0%} {far}{found_all}")
    return "\n".join(out)


@functools.cache
def thin(layers: int, kv_heads: int, head_dim: int) -> Decoder:
    """Random weights, and little beside the keys and values: its caches are those of a real model's shape."""
    config = Config(
        name="thin", vocab_size=259, hidden_size=24, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=kv_heads, num_key_value_heads=kv_heads, head_dim=head_dim,
    )  # fmt: skip
    return kvlab.random(config, device="cpu", dtype="float32")


def shares(lm: Decoder, arguments: Mapping[str, Any], tokens: int = 512) -> tuple[float, float]:
    """Bytes held and bytes read by the newest step, as shares of a cache in 16 bits of so many tokens.

    What is not coded counts 16 bits. Bytes do not depend on weights or words: a thin model with as many
    layers and KV heads is asked.
    """
    c = lm.config
    lm = thin(c.num_hidden_layers, c.num_key_value_heads, c.head_dim)
    ids = torch.arange(tokens)[None] % 200 + 20
    cache = kvlab.Cache(lm, **arguments)
    lm(ids[:, :-2], cache, last_only=True)
    for i in (2, 1):  # pages that an eviction has changed are bounded anew in the first of these
        lm(ids[:, tokens - i : tokens - i + 1], cache)
    whole = kvlab.plan(lm, tokens).cache_bytes
    uncoded, read = uncoded_bytes(cache), cache.bytes_read
    return (cache.nbytes - uncoded / 2) / whole, (read - min(read, uncoded) / 2) / whole


def claims_table() -> str:
    """The claims as HTML."""
    rows = [[lesson, claim, f"**{verdict}**"] for lesson, _, claim, verdict in CLAIMS]
    return plain_table(rows, ["lesson", "claim", "measured"], caption="What articles said, in other words.")


def needles(run: Recorded) -> dict[str, tuple[int, int]]:
    """Way -> numbers found and asked for."""
    hits = {row["way"]: each_needle(row["needles"]) for row in run.rows}
    return {name: (sum(one), len(one)) for name, one in hits.items()}


def how_many(right: int, asked: int) -> str:
    """A choice of the prediction: "none", "about half", or "nearly all"."""
    return "none" if not right else "nearly all" if right / asked > 0.75 else "about half"
