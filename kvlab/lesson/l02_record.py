"""Record what freezing rotary pairs costs along a text: `python -m kvlab.lesson.l02_record` (10 minutes).

Writes results/rope_pairs.json. Lesson 02 draws it, and measures its first point again.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from pydoc_data.topics import topics  # real English prose that every Python brings along

import torch
from torch import Tensor
from tqdm.auto import tqdm

import kvlab
from kvlab.measure.machine import device_name
from kvlab.measure.report import Report

from .l02 import added, losses

TOPICS = ("typesseq", "specialnames", "debugger")
EDGES = (1, 64, 128, 256, 512, 1024, 2048)  # a text is cut into stretches of positions here
QUARTERS = ((0, 8), (8, 16), (16, 24), (24, 32))


def stretches(loss: Tensor) -> list[float]:
    """Means of `[batch, tokens - 1]` over the stretches between `EDGES`; entry i is about token i + 1."""
    return [float(loss[:, a - 1 : b - 1].mean()) for a, b in itertools.pairwise(EDGES)]


@torch.no_grad()
def run() -> Report:
    """Measure three texts, one after another."""
    lm = kvlab.load("smollm2-135m")
    texts = [torch.tensor([lm.tokenizer.encode(topics[name])[: EDGES[-1]]]) for name in TOPICS]
    parameters = {"topics": TOPICS, "edges": EDGES, "first_ids": [t[0, : EDGES[1]].tolist() for t in texts]}
    report = Report("rope_pairs", device_name(lm.device), parameters, "python -m kvlab.lesson.l02_record")
    report.notes.append(
        "loss in nats a token, mean over the texts and over positions from one edge to the next"
    )
    found: dict[tuple[int, int], list[Tensor]] = {pairs: [] for pairs in QUARTERS}
    exact = []
    for ids in tqdm(texts, desc="texts"):
        exact.append(losses(lm, ids.to(lm.device)))
        for pairs in QUARTERS:
            found[pairs].append(added(lm, ids.to(lm.device), pairs, exact[-1]))
    report.add(pairs=None, loss=stretches(torch.cat(exact)))
    for pairs, loss in found.items():
        report.add(pairs=pairs, added=stretches(torch.cat(loss)))
    return report


if __name__ == "__main__":
    run().save(Path(__file__).resolve().parents[2] / "results" / "rope_pairs.json")
