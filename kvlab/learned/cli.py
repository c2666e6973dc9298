"""`kvlab train-indexer`: train the small scorers of sparse attention on a model, and write down how."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from pathlib import Path
from typing import Any

import torch

from kvlab.learned.capture import Capture, capture, held_out_windows, training_windows
from kvlab.learned.evaluate import mass_by_layer
from kvlab.learned.train import Recipe, train, untrained
from kvlab.measure.machine import provenance
from kvlab.selection.trained import save_weights
from kvlab.zoo.errors import need

EVERY = 20  # steps whose losses are averaged into one point of the curve
SHARES = (0.05, 0.1, 0.2)
ROWS = 160  # queries kept of each window
DIM = {"indexer": 32, "gate": 16}


def main(argv: list[str]) -> int:
    """`kvlab train-indexer`: see --help."""
    import kvlab

    args = _parser().parse_args(argv)
    recipe = Recipe(args.kind, args.seed, args.steps, dim=args.dim or DIM[args.kind])
    lm = kvlab.load(args.model, device="cpu")
    started = time.perf_counter()
    bar = need("tqdm").tqdm
    lessons = [take(lm, ids, recipe.seed) for ids in bar(list(training_windows(lm)), unit="window")]
    weights = untrained(recipe, lessons[0])
    curve = []
    sums: list[float] = []
    for step, lost in enumerate(bar(train(weights, recipe, lessons), total=recipe.steps, unit="step"), 1):
        sums.append(lost)
        if step % EVERY == 0 or step == recipe.steps:
            curve.append((step, round(sum(sums) / len(sums), 4)))
            sums = []
    seconds = time.perf_counter() - started
    judged = [take(lm, ids, recipe.seed) for ids in held_out_windows(lm)]
    held = mass_by_layer(judged, SHARES, {recipe.kind: weights}, recipe.page)
    record = {
        "command": shlex.join(["kvlab", "train-indexer", *argv]),
        "model": args.model,
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(weight.numel() for weight in weights.values()),
        "seconds": round(seconds, 1),
        "loss": curve,
        "held_out_mass": _rounded(held),
        **provenance(),
    }
    save_weights(weights, args.out, record)
    for share in SHARES:
        means = {name: sum(by[share]) / len(by[share]) for name, by in held.items()}
        print(f"{share:.0%} of the entries hold: " + ", ".join(f"{n} {m:.0%}" for n, m in means.items()))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB after {seconds:.0f} s")
    return 0


def take(lm: Any, ids: torch.Tensor, seed: int) -> Capture:
    """One window, at random rows."""
    draw = torch.Generator().manual_seed(seed)
    return capture(lm, ids, torch.randperm(len(ids), generator=draw)[:ROWS].sort().values)


def _rounded(held: dict[str, dict[float, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {
        name: {str(share): [round(x, 4) for x in layers] for share, layers in by.items()}
        for name, by in held.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kvlab train-indexer", description=__doc__.partition(": ")[2])
    parser.add_argument("--kind", choices=list(DIM), default="indexer", help="(default: indexer)")
    parser.add_argument("--model", default="smollm2-135m", help="(default: smollm2-135m)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help=f"(default: {Recipe.steps})")
    parser.add_argument("--dim", type=int, help="numbers of a small key (default: 32, gate 16)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("indexer.safetensors"), help="(default: ./indexer.safetensors)"
    )
    return parser
