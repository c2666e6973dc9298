"""`kvlab plan`: the bytes of a model and its cache, and what fits on a device."""

from __future__ import annotations

import argparse
import re

from kvlab.measure.outline import outline, presets
from kvlab.measure.plan import STORES, Plan, plan
from kvlab.measure.tables import table

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
EPILOG = """\
examples:
  kvlab plan --list
  kvlab plan llama2-7b --tokens 100000
  kvlab plan llama3-8b --tokens 8192 --batch 8 --device 24GB
  kvlab plan gemma3-27b --tokens 32768 --store hybrid --layers
  kvlab plan whisper-large-v3 --tokens 448 --store cross --source 1500
  kvlab plan llama3-70b --tokens 8192 --bits 4.5 --weight-bits 4 --device 48GiB

1 GB is 10^9 bytes, 1 GiB 2^30. What a program needs for activations comes on top.
"""


def main(argv: list[str]) -> int:
    """`kvlab plan`: see --help. Returns the exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        print(presets_table())
        return 0
    if args.model is None:
        raise ValueError("which model? kvlab plan --list shows the presets, kvlab plan --help the rest.")
    planned = plan(
        args.model,
        args.tokens,
        args.batch,
        args.bits,
        args.window,
        args.store,
        args.capacity,
        args.prompt,
        args.weight_bits,
        args.source,
    )
    print(report(planned, args.device, args.layers))
    return 0


def report(planned: Plan, device: int | None = None, layers: bool = False) -> str:
    """A plan in words and tables."""
    step = planned.step
    parts = {
        "cache, stored": planned.cache_bytes,
        "cache, allocated": planned.allocated_bytes,
        "weights": planned.weight_bytes,
        "ledger, rotary frequencies": planned.rest_bytes,
        "together (allocated)": planned.total_bytes,
        "read by one step": step.weights + step.cache_read,
    }
    rows = [
        {"what": name, "bytes": f"{n:,}", "GB": f"{n / 1e9:,.2f}", "GiB": f"{n / 2**30:,.2f}"}
        for name, n in parts.items()
    ]
    lines = [_title(planned), "", table(rows), "", *_sentences(planned, device)]
    if layers:
        lines += ["", _layers_table(planned)]
    return "\n".join([*lines, "", f"shape: {planned.model.source}"])


def presets_table() -> str:
    """Every preset: what a token costs, and what the weights do, in 16 bits."""
    found = [outline(name) for name in presets()]
    rows = [
        {
            "model": one.name,
            "attention": one.attention,
            "layers": len(one.layers),
            "with a window": one.slides,
            "parameters": one.parameters,
            "bytes a token (16 bits)": 2 * one.numbers,
            "made for tokens": one.longest,
        }
        for one in found
    ]
    return table(rows)


def _title(planned: Plan) -> str:
    size = "" if planned.capacity is None else f" of {planned.capacity:,} slots"
    return (
        f"{planned.model.name} ({planned.model.attention}), {_sequences(planned.batch)} of "
        f"{planned.tokens:,} tokens, store {planned.store}{size}: cache in {planned.bits:g} bits, "
        f"weights in {planned.weight_bits:g}"
    )


def _sentences(planned: Plan, device: int | None) -> list[str]:
    found = [f"One more token of one sequence adds {planned.bytes_per_token:,} bytes."]
    if planned.tokens > planned.model.longest:
        found.append(f"The model was made for {planned.model.longest:,} tokens.")
    slides, layers = planned.model.slides, len(planned.model.layers)
    if slides and planned.store in ("dynamic", "static"):
        found.append(
            f"{slides} of its {layers} layers see a window only: --store hybrid keeps no more than that."
        )
    if device is not None:
        spare = device - planned.total_bytes
        verdict = f"{_size(spare)} to spare" if spare >= 0 else f"{_size(-spare)} too much"
        found.append(f"On a device of {_size(device)}: {verdict}, before activations.")
        most = planned.tokens_that_fit(device)
        text = "any number of" if most is None else f"up to {most:,}"
        many = planned.sequences_that_fit(device)
        found.append(
            f"It holds {_sequences(planned.batch)} of {text} tokens, or {_sequences(many)} of "
            f"{planned.tokens:,}."
        )
    return found


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count:,} sequences"


def _layers_table(planned: Plan) -> str:
    rows = [
        {
            "layer": index,
            "sees": "all" if layer.window is None else f"{layer.window:,}",
            "entries kept": layer.slots,
            "stored bytes": layer.stored_bytes,
            "allocated bytes": layer.allocated_bytes,
            "read by a step": layer.read_bytes,
        }
        for index, layer in enumerate(planned.layers)
    ]
    return table(rows)


def size(text: str) -> int:
    """Bytes of "24GB", "24GiB", "16e9" or "1000".

    Raises:
        ValueError: no number, or a unit that nobody knows.
    """
    found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{text!r} is no size; write 24GB (10^9 bytes), 24GiB (2^30), or a number of bytes.")
    return int(float(found[1]) * UNITS[found[2]])


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB ({count / 2**30:,.2f} GiB)"


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Count the bytes of a model and its cache, without making either."
    parser = argparse.ArgumentParser("kvlab plan", description=about, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("model", nargs="?", help="a preset (--list)")
    parser.add_argument("--list", action="store_true", help="show the presets")
    parser.add_argument("--tokens", type=int, default=8192, help="in each sequence (default: 8192)")
    parser.add_argument("--batch", type=int, default=1, help="sequences (default: 1)")
    parser.add_argument("--bits", type=float, default=16, help="of a number in the cache (default: 16)")
    parser.add_argument("--weight-bits", type=float, default=16, help="of a weight (default: 16)")
    parser.add_argument("--store", choices=STORES, default="dynamic", help="(default: dynamic)")
    parser.add_argument("--capacity", type=int, help="slots that static or hybrid allocates at once")
    parser.add_argument("--prompt", type=int, metavar="TOKENS", help="of them came at once, the rest singly")
    parser.add_argument("--window", type=int, metavar="TOKENS", help="give every layer this window")
    parser.add_argument("--source", type=int, metavar="TOKENS", help="of --store cross: its encoder's")
    parser.add_argument("--device", type=_device, metavar="BYTES", help="what fits there? 24GB, 80GiB, …")
    parser.add_argument("--layers", action="store_true", help="show every layer")
    return parser


def _device(text: str) -> int:
    try:
        return size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
