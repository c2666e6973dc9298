"""What the first cells of a lesson call: `start("03")`, `model()`, `device()`."""

from __future__ import annotations

import functools
import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .style import RUST
from .tables import card, inline

LESSONS: dict[str, str] = {
    "00": "Start here",
    "01": "Attention by hand, and what the heads of a real model do",
    "02": "Positions and heads: rotary embeddings, GQA",
    "03": "Naive decoding repeats itself: the KV cache",
    "04": "Two contracts: using a cache right and wrong",
    "05": "The cache doctor",
    "06": "Sampling, and why it is never the cache's fault",
    "07": "What a cache costs: memory and bandwidth",
    "08": "Static caches: growth, capacity, limits",
    "09": "Fixed shapes are fast: compiled steps",
    "10": "Gemma 3's hybrid cache",
    "11": "Translation: the cross-attention cache",
    "12": "Quantization I: numbers, axes, honest bytes",
    "13": "Quantization II: rotation, codebooks, attention on packed data",
    "14": "Sparse and entropy-coded entries",
    "15": "Low rank, and MLA",
    "16": "Fewer entries: eviction and merging",
    "17": "Fixed sparse patterns",
    "18": "Dynamic sparse attention: top-k, pages, LSH",
    "19": "Learned sparse attention",
    "20": "All together: a cache for a budget",
}
CORE: tuple[str, ...] = ("00", "01", "02", "03", "04", "07", "08", "10", "12", "16", "17", "18", "20")


@dataclass(frozen=True)
class Started:
    """The one line that a lesson opens with."""

    text: str

    def __repr__(self) -> str:
        return self.text


def start(lesson: str, seed: int = 0) -> Started:
    """Make a lesson repeatable: seeds, no gradients, threads (`KVLAB_THREADS` where set).

    Raises LookupError for a lesson that the course does not have.
    """
    if lesson not in LESSONS:
        raise LookupError(f"there is no lesson {lesson!r}; they go from '00' to '20'")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_grad_enabled(False)
    if os.environ.get("KVLAB_THREADS"):
        torch.set_num_threads(int(os.environ["KVLAB_THREADS"]))
    return Started(f"Lesson {lesson}: {LESSONS[lesson]} (seed {seed})")


def device() -> str:
    """Where lessons run: `KVLAB_DEVICE` where set, else "cuda" if there is a GPU, else "cpu"."""
    named = os.environ.get("KVLAB_DEVICE")
    return named or ("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def model(name: str = "smollm2-135m") -> Any:
    """The lesson's model, in float32 on `device()`; loaded once a kernel.

    Where its weights can't be had (no network and nothing cached, a full disk), a card says why and the
    lesson goes on with "tiny", which has random weights: the code runs, the texts and figures mean nothing.
    """
    import kvlab

    try:
        return kvlab.load(name, device=device(), dtype=torch.float32)
    except (kvlab.ModelError, OSError) as error:
        _say_fallback(name, error)
        return kvlab.load("tiny", device=device(), dtype=torch.float32)


def _say_fallback(name: str, error: Exception) -> None:
    from IPython.display import display

    text = f"The weights of {name} can't be had: {error}\nThis lesson goes on with `tiny`, a model with "
    text += "random weights: the code works, but the words and figures mean nothing."
    display({"text/html": card(inline(text), RUST), "text/plain": text}, raw=True)
