"""transformers' quantized cache beside ours, on the same texts and weights: bytes, KL and time, recorded.

It needs optimum-quanto, which the course does not: `python -m kvlab.lesson.l13_quanto --out FILE`, in an
environment that has it. The prompt goes in as one chunk; what follows is teacher-forced token by token. Every
lossy step is taken right after the same step with a full cache, so that a slow moment meets both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kvlab
from kvlab.measure.machine import device_name, versions
from kvlab.measure.peers import transformers_twin
from kvlab.measure.quality_texts import windows
from kvlab.measure.report import Report, shown_command

Step = Callable[[Tensor], Tensor]  # ids [1, tokens] -> logits [1, tokens, vocab]
OURS = {  # the prompt is encoded at once there; here, what fills no block of 32 stays exact
    "KIVI-4": kvlab.KIVI(4, 32, residual=0),
    "KIVI-2": kvlab.KIVI(2, 32, residual=0),
    "KIVI-2, sinks": kvlab.KIVI(2, 32, residual=0, sink=4),
}
THEIRS = {"quanto-4": 4, "quanto-2": 2}


def inner_tensors(thing: Any) -> list[Tensor]:
    """The plain tensors that an object holds, those inside quantized tensors too."""
    if isinstance(thing, Tensor):
        if type(thing) in (Tensor, torch.nn.Parameter):
            return [thing]
        names, _ = thing.__tensor_flatten__()  # type: ignore[attr-defined]
        return [t for name in names for t in inner_tensors(getattr(thing, name))]
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ()
    if hasattr(thing, "layers") or type(thing).__module__.startswith("transformers.cache_utils"):
        parts = vars(thing).values()
    return [t for part in parts for t in inner_tensors(part)]


def nbytes(cache: Any) -> int:
    """Bytes of all tensors behind a transformers cache, each counted once."""
    found = {t.data_ptr(): t.nbytes for t in inner_tensors(cache) if t.numel()}
    return sum(found.values())


def compared(full: Step, lossy: Step, ids: Tensor, prompt: int) -> tuple[float, float]:
    """Mean KL(full ‖ lossy) a token over what follows the prompt, and the median ratio of step times."""
    full(ids[:, :prompt]), lossy(ids[:, :prompt])
    kls, ratios = [], []
    for i in range(prompt, ids.shape[1]):
        logits, seconds = [], []
        for step in (full, lossy):
            start = time.perf_counter()
            logits.append(step(ids[:, i : i + 1])[0, -1].log_softmax(-1))
            seconds.append(time.perf_counter() - start)
        p, q = logits
        kls.append(float((p.exp() * (p - q)).sum()))
        ratios.append(seconds[1] / seconds[0])
    return sum(kls) / len(kls), statistics.median_high(ratios)


def theirs(twin: Any, bits: int | None) -> tuple[Step, Any]:
    """A step of the twin over a cache of its own: full, or quantized by quanto with its default settings."""
    from transformers.cache_utils import DynamicCache, QuantizedCache

    config = twin.config
    cache = DynamicCache(config=config) if bits is None else QuantizedCache("quanto", config, nbits=bits)
    return lambda ids: twin(ids, past_key_values=cache, use_cache=True).logits, cache


def ours(lm: Any, codec: Any) -> tuple[Step, kvlab.Cache]:
    cache = kvlab.Cache(lm, codec=codec)
    return lambda ids: lm(ids, cache), cache


def record(model: str, texts: int, prompt: int, further: int, report: Report) -> None:
    """One row for each cache and text."""
    lm = kvlab.load(model)
    twin = transformers_twin(lm)
    ids = windows(lm, texts, prompt + further)
    for row in range(texts):
        text = ids[row : row + 1]
        for name, bits in THEIRS.items():
            (full, whole), (step, cache) = theirs(twin, None), theirs(twin, bits)
            with torch.no_grad():
                kl, ratio = compared(full, step, text, prompt)
            sizes = {"bytes": nbytes(cache), "full_bytes": nbytes(whole)}
            report.add(model=model, cache=name, text=row, kl=kl, step_over_full=ratio, **sizes)
        for name, codec in OURS.items():
            (full, mine), (step, lossy) = ours(lm, None), ours(lm, codec)
            with torch.no_grad():
                kl, ratio = compared(full, step, text, prompt)
            sizes = {"bytes": lossy.nbytes, "full_bytes": mine.nbytes}
            report.add(model=model, cache=name, text=row, kl=kl, step_over_full=ratio, **sizes)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m kvlab.lesson.l13_quanto", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=384)
    parser.add_argument("--further", type=int, default=24)
    parser.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    from importlib.metadata import version
    from pathlib import Path

    report = Report(
        bench="quantized",
        device=device_name(torch.device("cpu")),
        parameters={"prompt": args.prompt, "further": args.further, "texts": args.texts},
        command=shown_command(argv).replace("kvlab bench", "kvlab.lesson.l13_quanto"),
        path=Path(args.out),
    )
    report.versions = versions() | {name: version(name) for name in ("transformers", "optimum-quanto")}
    record(args.model, args.texts, args.prompt, args.further, report)
    report.save()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
