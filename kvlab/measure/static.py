"""`bench static`: a step over a cache of fixed size, compiled and not, against a growing one and the others.

The same ways, rounds and rows as `bench decode`; here the capacity is chosen, and larger than the text, as in
a server that allocates once. A step over a static cache then reads what is free as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvlab.measure.decode import Point, decode, decode_table
from kvlab.measure.paths import PATHS
from kvlab.measure.report import Report
from kvlab.measure.roofline import Ceilings

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `kvlab bench static` takes."""
    parser.add_argument("--context", type=int, default=512, metavar="TOKENS", help="before it (default: 512)")
    parser.add_argument("--capacity", type=int, default=1024, metavar="SLOTS",
                        help="of each static cache (default: 1024)")  # fmt: skip
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences (default: 1)")
    parser.add_argument("--steps", type=int, default=8, help="steps in one sample (default: 8)")
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=list(PATHS), metavar="PATH",
                        help=f"of {', '.join(PATHS)} (default: all)")  # fmt: skip


def run(
    args: argparse.Namespace, models: Iterable[tuple[str, Decoder]], best: Ceilings, report: Report
) -> str:
    """Measure every model and path; returns the table.

    Raises:
        ValueError: sizes below 1, or a capacity without room for the text and the steps.
    """
    if min(args.context, args.batch, args.steps) < 1:
        raise ValueError("bench static needs --context, --batch and --steps of at least 1.")
    needed = args.context + args.steps
    if args.capacity < needed:
        raise ValueError(
            f"{args.context} tokens and {args.steps} steps need {needed} slots, not {args.capacity}; "
            f"give --capacity {needed} or more."
        )
    point = Point(args.context, args.batch, args.steps, args.repeats, args.capacity)
    for name, lm in models:
        decode(lm, name, [point], args.paths, best, report)
    return decode_table(report)
