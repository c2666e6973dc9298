"""`kvlab train-translation`: train the translator, test it on numbers that it never saw, write both down."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from pathlib import Path

from kvlab.measure.machine import provenance
from kvlab.model.translator import Translator
from kvlab.translation.checkpoint import save
from kvlab.translation.languages import LANGUAGES
from kvlab.translation.pairs import directions
from kvlab.translation.train import Recipe, config, exact_match, held_out_sample, train, untrained
from kvlab.translation.words import Words
from kvlab.zoo.errors import need

EVERY = 25  # steps whose losses are averaged into one point of the curve
STEPS_A_PAIR = 1000


def main(argv: list[str]) -> int:
    """`kvlab train-translation`: see --help."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.held_out < 1:
        parser.error("--held-out needs a number or more")
    words = Words(args.languages)
    pairs = len(directions(words)) // 2
    recipe = Recipe(tuple(words.languages), args.seed, args.steps or STEPS_A_PAIR * pairs, args.batch)
    lm = untrained(config(words), words, recipe.seed)
    started = time.perf_counter()
    curve = _train(lm, recipe)
    seconds = time.perf_counter() - started
    numbers = held_out_sample(args.held_out)
    scores = {f"{of}-{to}": exact_match(lm, of, to, numbers) for of, to in directions(words)}
    record = {
        "command": shlex.join(["kvlab", "train-translation", *argv]),
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(p.numel() for p in lm.parameters()),
        "seconds": round(seconds, 1),
        "held_out_numbers": len(numbers),
        "held_out_exact_match": scores,
        "loss": curve,
        **provenance(),
    }
    save(lm, args.out, record)
    for direction, score in scores.items():
        print(f"{direction}: {score:.2%} of {len(numbers):,} numbers never seen in training")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB after {seconds:.0f} s")
    return 0


def _train(lm: Translator, recipe: Recipe) -> list[tuple[int, float]]:
    """Train with a progress bar; returns (steps done, mean loss since the point before)."""
    curve, sums = [], 0.0
    bar = need("tqdm").tqdm(train(lm, recipe), total=recipe.steps, unit="step")
    for step, lost in enumerate(bar, start=1):
        sums += lost
        if step % EVERY == 0 or step == recipe.steps:
            count = EVERY if step % EVERY == 0 else step % EVERY
            curve.append((step, round(sums / count, 5)))
            bar.set_postfix(loss=f"{sums / count:.4f}")
            sums = 0.0
    return curve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kvlab train-translation", description=__doc__.partition(": ")[2])
    known = list(LANGUAGES)
    parser.add_argument(
        "--languages", nargs="+", choices=known, default=known, help=f"(default: {' '.join(known)})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: 0)")
    parser.add_argument("--steps", type=int, help=f"(default: {STEPS_A_PAIR} for each pair of languages)")
    parser.add_argument("--batch", type=int, default=64, help="pairs a step (default: 64)")
    parser.add_argument(
        "--held-out", type=int, default=1000, metavar="N", help="unseen numbers to test on (default: 1000)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("translator.safetensors"), help="(default: ./translator.safetensors)"
    )
    return parser
