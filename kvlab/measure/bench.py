"""`kvlab bench`: measure, print a table, write one JSON file."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kvlab.measure.machine import device_name
from kvlab.measure.quality_cli import add_arguments as add_quality
from kvlab.measure.report import Report, shown_command, without_paths
from kvlab.measure.roofline import Ceilings, ceilings
from kvlab.measure.sparse import add_arguments as add_sparse
from kvlab.measure.static import add_arguments as add_static
from kvlab.measure.together import add_arguments as add_together

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

PATH_NAMES = ("naive", "dynamic", "static", "compiled", "hf-dynamic", "hf-compiled")
DTYPES = ("float32", "bfloat16", "float16", "float64")
EPILOG = """\
examples:
  kvlab bench decode --models smollm2-135m --contexts 128 2048
  kvlab bench decode --models llama2-7b --device cuda --dtype bfloat16 --batches 1 8
  kvlab bench static --context 512 --capacity 1024
  kvlab bench prefill --quick
  kvlab bench memory --models smollm2-135m --contexts 512 2048 --batches 1 4
  kvlab bench growth --contexts 16 8192 --total 2048
  kvlab bench load --models smollm2-135m gemma3-270m
  kvlab bench gpu --out results --only ceilings,decode-llama2-7b
  kvlab bench sparse --threads 1 --contexts 8192 32768
  kvlab bench entropy --tokens 1024
  kvlab bench together --tokens 8000 --threads 1
  kvlab bench quality --methods full int8 kivi-2 --out quality.json

A model is a name that kvlab.load takes; a name of which only the shape is known (llama2-7b), or
random:NAME, gets random weights. Close other programs before you trust a figure.
"""


def main(argv: list[str]) -> int:
    """`kvlab bench`: see --help. Returns the exit code."""
    args = _parser().parse_args(argv)
    if args.bench == "gpu":
        return _gpu(args, argv)
    if args.bench == "quality":
        from kvlab.measure.quality_cli import main as quality_main

        return quality_main(args, argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no CUDA device here; use --device cpu.")
    report = Report(
        bench=args.bench,
        device=device_name(device),
        parameters=_parameters(args, device),
        command=shown_command(argv),
    )
    report.path = _target(args.out, report)
    text = RUNS[args.bench](args, device, report)
    report.save()
    for line in (*report.notes, *report.errors):
        print(f"note: {line}")
    print(text)
    print(f"written to {report.path}")
    return 1 if report.errors else 0


def _ceilings(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.gpu_parts import ceilings_table

    best, rows = ceilings(device, getattr(torch, args.dtype), args.quick)
    for row in rows:
        report.add(**row)
    report.parameters["best"] = vars(best)
    return ceilings_table(report)


def _decode(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.decode import Point, decode, decode_table

    best = _measured_ceilings(args, device, report)
    for name, lm in _models(args, device):
        points = [Point(n, batch, args.steps, args.repeats) for n in args.contexts for batch in args.batches]
        for point in _progress(points, f"decode {name}"):
            decode(lm, name, [point], args.paths, best, report)
    return decode_table(report)


def _prefill(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.decode import Point
    from kvlab.measure.prefill import prefill, prefill_table

    best = _measured_ceilings(args, device, report)
    for name, lm in _models(args, device):
        points = [Point(n, batch, 1, args.repeats) for n in args.contexts for batch in args.batches]
        for point in _progress(points, f"prefill {name}"):
            prefill(lm, name, [point], best, report)
    return prefill_table(report)


def _load(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.loading import loading, loading_table

    for name in _progress(args.models, "load"):
        loading(name, str(device), args.dtype, args.repeats, report, first=not args.later_only)
    return loading_table(report)


def _growth(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.growth import growth_table, record_growth, shell
    from kvlab.zoo import SHAPES

    points = [*((n, args.append) for n in args.contexts), *([(1, args.total - 1)] if args.total > 1 else [])]
    unknown = [name for name in args.models if name not in SHAPES]
    if unknown:
        raise ValueError(f"growth needs a model's shape only; {unknown[0]!r} is none of {', '.join(SHAPES)}.")
    for name in args.models:
        lm = shell(SHAPES[name], getattr(torch, args.dtype), device)
        for point in _progress(points, f"growth {name}"):
            record_growth(lm, [point], report, model=name)
    return growth_table(report)


def _entropy(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.entropy_bench import entropy_table, record_entropy

    for name, lm in _models(args, device):
        record_entropy(lm, args.tokens, args.layers, report, name)
    return entropy_table(report)


def _memory(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.memory import Point, memory, memory_table

    points = [
        Point(name, store, tokens, batch, args.dtype, torch.get_num_threads())
        for name in args.models
        for store in args.stores
        for batch in args.batches
        for tokens in args.contexts
    ]
    for point in _progress(points, "memory"):
        memory([point], device, report)
    return memory_table(report)


def _packed(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.packed import packed, packed_table

    for name, lm in _models(args, device):
        for tokens in _progress(args.contexts, f"packed {name}"):
            packed(lm, name, tokens, args.blocks, args.repeats, report)
    return packed_table(report)


RUNS = {"ceilings": _ceilings, "decode": _decode, "prefill": _prefill, "load": _load, "growth": _growth}
RUNS["packed"] = _packed
RUNS["memory"], RUNS["entropy"] = _memory, _entropy


def _sparse(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.sparse import run

    return run(args, device, report, _progress)


RUNS["sparse"] = _sparse


def _together(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.together import run

    return run(args, _models(args, device), report, _progress)


RUNS["together"] = _together


def _static(args: argparse.Namespace, device: torch.device, report: Report) -> str:
    from kvlab.measure.static import run

    return run(args, _models(args, device), _measured_ceilings(args, device, report), report)


RUNS["static"] = _static


def _gpu(args: argparse.Namespace, argv: list[str]) -> int:
    from kvlab.measure.gpu import NEEDS, DeviceLost, Run, full_plan, run_parts, status_table, tiny_plan
    from kvlab.measure.gpu_parts import PARTS

    chosen = [name for word in args.only for name in word.split(",") if name] or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
    if not torch.cuda.is_available() and not args.allow_cpu:
        raise ValueError(NEEDS)
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton looks when it is imported: below, by a part
    plan = full_plan(args.quick) if torch.cuda.is_available() else tiny_plan()
    end = time.monotonic() + 60 * args.minutes
    run = Run(plan, Path(args.out), shown_command(argv), end)
    try:
        failed = run_parts(run, {name: PARTS[name] for name in PARTS if name in chosen})
    except DeviceLost as lost:
        failed = 1
        _in_new_process(args, lost.parts, end)
    print(status_table(run))
    print(f"written to {args.out}")
    return 1 if failed else 0


def _in_new_process(args: argparse.Namespace, parts: list[str], end: float) -> None:
    """The remaining parts, where this process has lost the GPU."""
    minutes = (end - time.monotonic()) / 60
    if not parts or minutes <= 0:
        return
    command = [sys.executable, "-m", "kvlab", "bench", "gpu", "--out", args.out, "--only", *parts]
    command += ["--minutes", f"{minutes:.2f}", *(["--quick"] if args.quick else [])]
    print(f"going on in a new process: {', '.join(parts)}", flush=True)
    subprocess.run(command, check=False)


def _measured_ceilings(args: argparse.Namespace, device: torch.device, report: Report) -> Ceilings:
    best, rows = ceilings(device, getattr(torch, args.dtype), args.quick)
    report.parameters["ceilings"] = vars(best)
    report.parameters["ceiling_rows"] = rows
    return best


def _models(args: argparse.Namespace, device: torch.device) -> Iterable[tuple[str, Decoder]]:
    """Name and decoder, one at a time."""
    from kvlab.zoo import SHAPES, load, names, random

    for name in args.models:
        shape = name.removeprefix("random:")
        if shape != name or (shape in SHAPES and shape not in names()):
            yield name, random(shape, device=device, dtype=args.dtype)
        else:
            yield name, load(name, device=device, dtype=args.dtype)


def _progress(items: list[Any], title: str) -> Iterable[Any]:
    """With a bar on a terminal that has tqdm; plain otherwise."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=title, leave=False, disable=None)


def _parameters(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What was asked for, as the report keeps it."""
    left_out = ("bench", "out", "device", "threads")
    kept = {name: value for name, value in vars(args).items() if name not in left_out}
    if "models" in kept:
        kept["models"] = [without_paths(name) for name in kept["models"]]
    return {**kept, "device": device.type, "threads": torch.get_num_threads()}


def _target(out: str, report: Report) -> Path:
    """The file to write: `out` itself where it ends in .json, else a new file in that folder."""
    path = Path(out)
    if path.suffix == ".json":
        return path
    date = re.sub(r"[^0-9]", "", report.date)[:14]
    return path / f"{report.bench}-{report.parameters['device']}-{date}.json"


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Measure, print a table, and record the run in one JSON file with all its samples."
    parser = argparse.ArgumentParser("kvlab bench", description=about, epilog=EPILOG, formatter_class=raw)
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")

    def add(name: str, what: str, models: bool = True) -> argparse.ArgumentParser:
        sub = benches.add_parser(name, help=what, description=what)
        sub.add_argument("--out", default=".", metavar="FILE|DIR", help="where the JSON goes (default: here)")
        sub.add_argument("--quick", action="store_true", help="few samples, small sizes: does it work?")
        if name == "gpu":
            return sub
        sub.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
        sub.add_argument("--dtype", default="float32", choices=DTYPES)
        sub.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")
        if models:
            sub.add_argument("--models", nargs="+", default=["smollm2-135m"], metavar="NAME")
            sub.add_argument("--repeats", type=_positive, default=9, help="samples of each (default: 9)")
        return sub

    decode = add("decode", "time of one decode step: every way, on the same weights, taken in turn")
    prefill = add("prefill", "time of a prompt against its length")
    for sub, contexts in ((decode, (128, 512, 2048)), (prefill, (128, 512, 2048))):
        sub.add_argument("--contexts", nargs="+", type=_positive, default=list(contexts), metavar="TOKENS")
        sub.add_argument("--batches", nargs="+", type=_positive, default=[1], metavar="N")
    decode.add_argument("--steps", type=_positive, default=8, help="steps in one sample (default: 8)")
    decode.add_argument("--paths", nargs="+", choices=PATH_NAMES, default=list(PATH_NAMES), metavar="PATH",
                        help=f"of {', '.join(PATH_NAMES)} (default: all)")  # fmt: skip
    add_static(add("static", "a step over a cache of fixed size, compiled and not, against growing ones"))
    packed = add("packed", "one token over packed entries: a layer decoded at once, or a block at a time")
    packed.add_argument("--contexts", nargs="+", type=_positive, default=[512, 2048, 8000], metavar="TOKENS")
    packed.add_argument("--blocks", nargs="+", type=_positive, default=[256, 1024], metavar="TOKENS")
    load = add("load", "seconds of a model's first conversion and of later loads, in fresh processes")
    load.add_argument("--later-only", action="store_true", help="leave the first conversion out")
    growth = add("growth", "appending token by token: copying, doubling, preallocated", models=False)
    growth.add_argument("--models", nargs="+", default=["smollm2-135m"], metavar="NAME", help="their shapes")
    growth.add_argument("--contexts", nargs="+", type=_positive, default=[16, 512, 8192], metavar="TOKENS")
    growth.add_argument("--append", type=_positive, default=64, help="tokens after each (default: 64)")
    growth.add_argument("--total", type=int, default=0, metavar="TOKENS", help="also from 1 token to so many")
    memory = add("memory", "bytes of a cache: planned, counted, and really in memory", models=False)
    memory.add_argument("--models", nargs="+", default=["smollm2-135m"], metavar="NAME")
    memory.add_argument("--contexts", nargs="+", type=_positive, default=[256, 512, 1024, 2048])
    memory.add_argument("--batches", nargs="+", type=_positive, default=[1], metavar="N")
    memory.add_argument("--stores", nargs="+", default=["dynamic", "static"],
                        choices=["dynamic", "static", "hybrid"])  # fmt: skip
    add("ceilings", "bandwidth and matrix rate of this machine", models=False)
    add_sparse(add("sparse", "attention that reads a part of the cache, against all of it", models=False))
    coded = add("entropy", "bits a code of Huffman and rANS on real keys and values, against the entropy")
    coded.add_argument("--tokens", type=_positive, default=1024, help="a multiple of 128 (default: 1024)")
    coded.add_argument("--layers", type=_positive, default=3, help="every so many-th layer (default: 3)")
    add_quality(add("quality", "what lossy caches cost in KL, needles and copying", models=False))
    add_together(add("together", "four bits, an eviction and a selection on one cache, and each alone"))
    gpu = add("gpu", "every GPU figure of the course, one JSON file a part", models=False)
    gpu.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts, by spaces or commas")
    gpu.add_argument("--minutes", type=float, default=8.0, help="begin nothing after so many (default: 8)")
    gpu.add_argument("--allow-cpu", action="store_true", help="without a GPU: all parts on a tiny model")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value
