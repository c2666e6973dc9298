"""`kvlab train-indexer`: train the small scorers of sparse attention on a model, and write down how."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kvlab.learned.capture import Capture, capture, held_out_windows, training_windows
from kvlab.learned.evaluate import mass_by_layer
from kvlab.learned.train import Recipe, train, untrained
from kvlab.measure.machine import provenance
from kvlab.measure.report import without_paths
from kvlab.selection.trained import checkpoint, save_weights
from kvlab.zoo.errors import need

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

EVERY = 20  # steps whose losses are averaged into one point of the curve
SHARES = (0.05, 0.1, 0.2)
ROWS = 160  # queries kept of each window
RECIPES = {"indexer": Recipe("indexer"), "gate": Recipe("gate", learning_rate=3e-3, width=1.0, dim=16)}


def main(argv: list[str]) -> int:
    """`kvlab train-indexer`: see --help."""
    import kvlab

    args = _parser().parse_args(argv)
    changes = {name: value for name in ("seed", "steps") if (value := getattr(args, name)) is not None}
    recipes = [dataclasses.replace(RECIPES[kind], **changes) for kind in args.kind]
    lm = kvlab.load(args.model, device="cpu")
    bar = need("tqdm").tqdm
    lessons = [take(lm, ids) for ids in bar(list(training_windows(lm)), desc="read", unit="window")]
    judged = [take(lm, ids) for ids in bar(list(held_out_windows(lm)), desc="hold out", unit="window")]
    for recipe in recipes:
        started = time.perf_counter()
        weights = untrained(recipe, lessons[0])
        steps = bar(train(weights, recipe, lessons), desc=recipe.kind, total=recipe.steps, unit="step")
        curve = averaged(steps, recipe.steps)
        seconds = time.perf_counter() - started
        held = mass_by_layer(judged, SHARES, {recipe.kind: weights}, recipe.page)
        path = args.out / checkpoint(recipe.kind, args.model).name
        save_weights(weights, path, {
            "command": " ".join(["kvlab train-indexer", *map(without_paths, argv)]),
            "model": args.model,
            "recipe": dataclasses.asdict(recipe),
            "parameters": sum(weight.numel() for weight in weights.values()),
            "training_seconds": round(seconds, 1),
            "loss": curve,
            "held_out_mass": _rounded(held),
            **provenance(),
        })  # fmt: skip
        for share in SHARES:
            means = {name: sum(by[share]) / len(by[share]) for name, by in held.items()}
            print(f"{share:.0%} of the entries hold: " + ", ".join(f"{n} {m:.0%}" for n, m in means.items()))
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB after {seconds:.0f} s of training")
    return 0


def averaged(losses: Iterable[float], steps: int) -> list[tuple[int, float]]:
    """(steps done, mean loss since the point before)."""
    curve, since = [], []
    for step, lost in enumerate(losses, start=1):
        since.append(lost)
        if step % EVERY == 0 or step == steps:
            curve.append((step, round(sum(since) / len(since), 4)))
            since = []
    return curve


def take(lm: Decoder, ids: torch.Tensor) -> Capture:
    """One window, at random rows, the same in every window."""
    draw = torch.Generator().manual_seed(0)
    return capture(lm, ids, torch.randperm(len(ids), generator=draw)[:ROWS].sort().values)


def _rounded(held: dict[str, dict[float, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {
        name: {str(share): [round(x, 4) for x in layers] for share, layers in by.items()}
        for name, by in held.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kvlab train-indexer", description=__doc__.partition(": ")[2])
    parser.add_argument(
        "--kind", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="(default: both)"
    )
    parser.add_argument("--model", default="smollm2-135m", help="(default: smollm2-135m)")
    parser.add_argument("--steps", type=int, help=f"(default: {Recipe.steps})")
    parser.add_argument("--seed", type=int, help="of weights and order (default: 0)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="(default: here)")
    return parser
