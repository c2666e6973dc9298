"""`kvlab bench quality`: judge the methods of `kvlab.measure.methods`, and merge results into one file."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import kvlab
from kvlab.measure.machine import commit, device_name, now, versions
from kvlab.measure.methods import find_methods
from kvlab.measure.quality import EVALUATIONS, QUICK, Settings, quality, settings_of
from kvlab.measure.quality_stats import each_needle, t_interval, wilson
from kvlab.measure.quality_texts import corpus_digest
from kvlab.measure.report import Report, read_report, shown_command
from kvlab.measure.tables import table


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `kvlab bench quality`; numbers left out are those of `Settings`."""
    sub.add_argument("--model", default="smollm2-135m", metavar="NAME")
    sub.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="default: all")
    sub.add_argument("--family", help="all methods of one family")
    sub.add_argument("--list", action="store_true", help="name all methods, and measure nothing")
    sub.add_argument("--evaluations", nargs="+", choices=EVALUATIONS, help="default: all three")
    sub.add_argument("--offsets", type=int, metavar="N", help="texts, the rows of one batch (default: 5)")
    sub.add_argument("--tokens", type=int, metavar="N", help="of a prompt (default: 1024)")
    sub.add_argument("--continue", type=int, metavar="N", dest="further",
                     help="tokens that are teacher-forced after it (default: 256)")  # fmt: skip
    sub.add_argument("--needles", type=int, metavar="N", help="contexts of each length (default: 8)")
    sub.add_argument("--needle-tokens", nargs="+", type=int, metavar="N", help="default: 512 1024")
    sub.add_argument("--copies", nargs="+", type=int, metavar="N", help="default: 64 128")
    sub.add_argument("--protocol", choices=("agnostic", "aware", "both"),
                     help="is the question known when the context is taken? (default: agnostic)")  # fmt: skip
    sub.add_argument("--seed", type=int, metavar="N")


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings that were asked for."""
    given = {name: getattr(args, name) for name in settings_of(QUICK)}
    asked: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None
    }
    return replace(QUICK if args.quick else Settings(), **asked)


def main(args: argparse.Namespace, argv: list[str]) -> int:
    """Run, print a table, write the file; 1 if a method failed."""
    chosen = find_methods(args.methods, args.family)
    if args.list:
        print(table([{"method": m.name, "family": m.family, "what": m.about} for m in chosen]))
        return 0
    settings = settings_from(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    lm = kvlab.load(args.model, device=device, dtype=args.dtype)
    command = shown_command(argv)
    path = _target(args.out)
    about = {"corpus": f"pydoc_data.topics {corpus_digest()}", "settings": settings_of(settings)}
    source = {"date": now(), "commit": commit(), "command": command, "versions": versions(), **about}
    source |= {"device": device_name(device), "dtype": args.dtype}
    report = Report("quality", device_name(device), {"model": args.model, **about}, command, path=path)
    if not path.is_dir() and path.exists():
        read_report(path)  # refuse a file that is something else before anything is measured
    families = {m.name: m for m in chosen}

    def finished(name: str, result: dict[str, Any]) -> None:
        method = families[name]
        row = {"model": args.model, "method": name, "family": method.family, "about": method.about}
        merge(report, {**row, **result, "source": source})

    def failed(name: str, error: BaseException) -> None:
        report.fail(f"{args.model} {name}", error)

    merge(report, None)
    factories = {m.name: m.factory(lm) for m in chosen}
    quality(lm, factories, settings, finished, failed)
    for line in report.errors:
        print(f"note: {line}")
    print(quality_table(report.rows))
    print(f"written to {path}")
    return 1 if report.errors else 0


def merge(report: Report, row: dict[str, Any] | None) -> None:
    """Take the rows that the file has by now, put `row` in place of an older one, and write it.

    Another run may have written to the same file since: what it measured stays.
    """
    if report.path is not None and report.path.exists():
        report.rows = read_report(report.path).rows
    if row is not None:
        same = [(r["model"], r["method"]) == (row["model"], row["method"]) for r in report.rows]
        if any(same):
            at = same.index(True)
            report.rows[at] = joined(report.rows[at], row)
        else:
            report.rows.append(row)
        report.save()


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new row; with what only the old one has, if the same texts were judged in the same precision.

    `source` stays the old row's then, and `sources` says for each evaluation that was added where it is from.
    """
    before, after = (dict(row["source"]["settings"]) for row in (old, new))
    measured = after.pop("evaluations")
    alike = all(old["source"][key] == new["source"][key] for key in ("corpus", "dtype"))
    had = before.pop("evaluations") + list(old.get("sources", {}))
    if not alike or before != after or set(had) <= set(measured):
        return new
    sources = {**old.get("sources", {}), **dict.fromkeys(measured, new["source"])}
    added = {key: value for key, value in new.items() if key not in ("source", "cpu_seconds")}
    return {**old, **added, "sources": sources}


def quality_table(rows: list[dict[str, Any]]) -> str:
    """The table that is printed last: means, with 95 % intervals where there are texts enough."""
    return table([_line(row) for row in rows])


def _line(row: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"model": row["model"], "method": row["method"]}
    if "kl" in row:
        kl = t_interval(row["kl"])
        line["KL"] = f"{kl.mean:.2g}" + ("" if kl.low != kl.low else f" ({kl.low:.2g} … {kl.high:.2g})")
        line["perplexity"] = f"{_perplexity(row['nll']):.2f} ({_perplexity(row['nll_full']):.2f} full)"
        line["same word %"] = round(100 * t_interval(row["agree"]).mean, 1)
        line["B/token"] = round(row["bytes"]["stored"])
        line["read/step"] = round(row["bytes"]["read"])
    for name in ("needles", "needles_aware"):
        if name in row:
            found = each_needle(row[name])
            share = wilson(sum(found), len(found))
            line[name] = f"{sum(found)}/{len(found)} ({share.low:.2f} … {share.high:.2f})"
    if "copying" in row:
        line["copying"] = " ".join(f"{t_interval(shares).mean:.2f}" for shares in row["copying"].values())
    return line


def _perplexity(nll: list[float]) -> float:
    return float(torch.tensor(nll).mean().exp())


def _target(out: str) -> Path:
    """The file to write, or a new one of today in that folder."""
    path = Path(out)
    return path if path.suffix == ".json" else path / f"quality-{re.sub(r'[^0-9]', '', now())[:14]}.json"
