"""Record how long a translation step takes: `python -m kvlab.lesson.l11_record` (a few minutes).

Writes results/translation-cpu.json. Lesson 11 draws it, and measures one of its points again. The model has
the shape of the first transformer (Vaswani et al., 2017, table 3, base) and random weights: for speed alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm

import kvlab
from kvlab.measure.clock import Timing, alternate, once
from kvlab.measure.machine import device_name
from kvlab.measure.report import Report
from kvlab.model.config import TranslatorConfig
from kvlab.model.translator import Encoded, Translator
from kvlab.translation.train import untrained

from .l11 import WAYS, Rows, work

BASE = TranslatorConfig(
    name="transformer-base", vocab_size=37_000, hidden_size=512, intermediate_size=1365,
    num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8, head_dim=64, encoder_layers=6,
    source="Vaswani et al. 2017, arXiv:1706.03762, table 3; gated MLPs of two thirds the width",
)  # fmt: skip
SOURCES = (16, 64, 256, 1024)  # words of the source, 16 of the target
TARGETS = (16, 64, 256)  # words of the target so far, 64 of the source


def model(config: TranslatorConfig = BASE) -> Translator:
    """The random model, on the CPU."""
    return untrained(config, None)


def step_times(lm: Translator, source: int, target: int, rounds: int = 5) -> dict[str, Timing]:
    """Seconds of one step after `target` words, each way, taken in turn."""
    made = samplers(lm, source, target)
    for sample in made.values():
        sample()
    return alternate(made, rounds)


def samplers(lm: Translator, source: int, target: int) -> dict[str, Callable[[], float]]:
    """For each way a function that takes one step after `target` words and returns its seconds."""
    ids = torch.arange(source)[None] % lm.config.vocab_size
    given = torch.ones(1, target, dtype=torch.int64)
    encoded = lm.encode(ids)
    return {way: _sampler(lm, ids, encoded, given, way) for way in WAYS}


def _sampler(
    lm: Translator, ids: torch.Tensor, encoded: Encoded, given: torch.Tensor, way: str
) -> Callable[[], float]:
    """A function that takes one step after `given`, and rolls the cache back."""
    if way == "nothing":
        whole = torch.cat((given, given[:, :1]), dim=1)
        return lambda: once(lambda: lm(whole, last_only=True, source=lm.encode(ids)), lm.device)
    cache = kvlab.Cache(lm, store=WAYS[way])
    lm(given, cache, last_only=True, source=encoded)

    def sample() -> float:
        seconds = once(lambda: lm(given[:, :1], cache, source=encoded), lm.device)
        cache.crop(given.shape[1])
        return seconds

    return sample


def step_rows(source: int, target: int) -> dict[str, Rows]:
    """The rows that one step after `target` words computes, each way."""
    return {
        "nothing": Rows([source], [source], [target + 1]),
        "self": Rows([], [source], [1]),
        "self + cross": Rows([], [], [1]),
    }


@torch.no_grad()
def run(lm: Translator, points: list[tuple[int, int]], rounds: int = 15) -> Report:
    """Measure every point (source, target), `rounds` times in turn."""
    parameters = {"shape": BASE.name, "rounds": rounds, "threads": torch.get_num_threads()}
    command = "python -m kvlab.lesson.l11_record"
    report = Report("translation", device_name(lm.device), parameters, command)
    made = {
        f"{source} {target} {way}": sample
        for source, target in points
        for way, sample in samplers(lm, source, target).items()
    }
    for sample in made.values():
        sample()
    bar = tqdm(total=len(made) * rounds, desc="samples")
    timings = alternate(made, rounds, bar.update)  # all points in turn, so that they can be compared
    for source, target in points:
        for way, rows in step_rows(source, target).items():
            timing = timings[f"{source} {target} {way}"]
            multiply_adds = work(lm.config, rows)
            report.add(source=source, target=target, way=way, multiply_adds=multiply_adds, **timing.row())
    if hasattr(os, "getloadavg") and os.getloadavg()[1] > 1.5:
        report.notes.append("other programs used the machine; all points took turns: compare them, not runs")
    return report


POINTS = sorted({(source, 16) for source in SOURCES} | {(64, target) for target in TARGETS})

if __name__ == "__main__":
    run(model(), POINTS).save(Path(__file__).resolve().parents[2] / "results" / "translation-cpu.json")
