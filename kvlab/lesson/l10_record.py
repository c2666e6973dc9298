"""Record what passes Gemma 3's windows: `python -m kvlab.lesson.l10_record` (5 minutes).

Writes hybrid-reach.json, hybrid-quality.json and hybrid-needles.json into results/. Lesson 10 draws them,
and measures a point again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from tqdm.auto import tqdm

import kvlab
from kvlab.measure.machine import device_name
from kvlab.measure.report import Report

from .l10 import NAME, prose
from .l10_reach import answers, change, compare, full_layers, needle

TOKENS, BLOCK = 4096, 64
CHAPTERS = ("typesseq", "specialnames", "debugger")
EDGES = (1, 129, 257, 385, 513, 641, 769, 897, 1025)  # stretches of positions
EVERY = 4
KEYS = (71432, 90817, 35526, 48263)
DISTANCES = (300, 600)
COMMAND = "python -m kvlab.lesson.l10_record"


@torch.no_grad()
def reach() -> Report:
    """One digit of a key is changed; a question about it ends the text."""
    lm = kvlab.load(NAME)
    asked = needle(lm, KEYS[0], TOKENS - 6)
    ids = asked.ids[:TOKENS]
    other = list(ids)
    other[asked.digit] = lm.tokenizer.encode("8", bos=False)[0]
    parameters = {"tokens": len(ids), "changed": asked.digit, "block": BLOCK, "last_ids": ids[-16:]}
    report = Report("hybrid-reach", device_name(lm.device), parameters, f"{COMMAND} reach")
    report.notes.append("change: relative change of a hidden state, mean over blocks of positions")
    for windowed in ((), full_layers(lm)):
        moved = change(lm, ids, other, windowed)
        for layer, row in enumerate(moved):
            blocks = [float(part.mean()) for part in row.split(BLOCK)]
            report.add(windowed=windowed, layer=layer, change=blocks, at_last=float(row[-1]))
    return report


@torch.no_grad()
def quality() -> Report:
    """Loss and divergence along texts, with all full layers or one of them windowed."""
    lm = kvlab.load(NAME)
    cases = _cases(full_layers(lm))
    parameters = {"chapters": CHAPTERS[:2], "edges": EDGES, "every": EVERY}
    report = Report("hybrid-quality", device_name(lm.device), parameters, f"{COMMAND} quality")
    report.notes.append("loss and KL in nats a token, mean over the texts and from one edge to the next")
    report.notes.append(f"of the positions, every {EVERY}th is judged")
    texts = [prose(lm, EDGES[-1], name) for name in CHAPTERS[:2]]
    found = [compare(lm, ids, cases[1:], EVERY) for ids in tqdm(texts, desc="texts")]
    loss = torch.stack([one[0] for one in found]).mean(0)  # [cases, judged positions]
    kl = torch.stack([one[1] for one in found]).mean(0)
    ends = [(edge - 1) // EVERY for edge in EDGES]
    for i, windowed in enumerate(cases):
        mean = [[float(x[i, a:b].mean()) for a, b in itertools.pairwise(ends)] for x in (loss, kl)]
        report.add(windowed=windowed, loss=mean[0], kl=mean[1])
    return report


@torch.no_grad()
def needles() -> Report:
    """Keys stated once and asked for later, with all full layers windowed, or the second, or the last."""
    lm = kvlab.load(NAME)
    parameters = {"chapters": CHAPTERS, "keys": KEYS, "distances": DISTANCES}
    report = Report("hybrid-needles", device_name(lm.device), parameters, f"{COMMAND} needles")
    every = full_layers(lm)
    for far in DISTANCES:
        inside = far < (lm.config.sliding_window or 0)  # there a single layer makes no difference
        cases = [(), every] if inside else [(), every, *[(layer,) for layer in every[1:]]]
        asked = [needle(lm, key, far, CHAPTERS[i % 3]) for i, key in enumerate(KEYS)]
        said = [answers(lm, one, cases) for one in tqdm(asked, desc=f"{far} tokens")]
        for i, windowed in enumerate(cases):
            given = [one[i] for one in said]
            hits = sum(answer == str(key) for answer, key in zip(given, KEYS, strict=True))
            report.add(windowed=windowed, far=far, right=hits, of=len(KEYS), said=given)
    return report


def _cases(full: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(), full, *[(layer,) for layer in full]]


def main() -> None:
    """Run one of the three, or all."""
    parser = argparse.ArgumentParser(description="Record the runs of lesson 10.")
    parser.add_argument("which", nargs="?", choices=["reach", "quality", "needles"])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "results")
    asked = parser.parse_args()
    for name, run in (("reach", reach), ("quality", quality), ("needles", needles)):
        if asked.which in (None, name):
            run().save(asked.out / f"hybrid-{name}.json")


if __name__ == "__main__":
    main()
