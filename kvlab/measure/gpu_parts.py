"""The parts of `bench gpu` about speed: ceilings, decoding, what a step spends its time on, real text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from kvlab.cache import Cache
from kvlab.measure import (
    gpu_attention,
    gpu_kernels,
    gpu_memory,
    gpu_prefill,
    gpu_together,
    gpu_window,
    growth,
)
from kvlab.measure.decode import Point, decode, decode_table, prompt
from kvlab.measure.gpu import Part, Points, Run
from kvlab.measure.paths import make_path
from kvlab.measure.report import Report
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.generate import Generation
    from kvlab.model.decoder import Decoder

PROMPTS = (
    "The cat is on the mat. The capital of France is",
    "Once upon a time there was a small village where",
    "def fibonacci(n):\n    ",
    "The first three planets from the sun are",
    "Water boils at",
)


def ceilings_part(run: Run, report: Report) -> str:
    """Copy and read bandwidth, matrix rate: the ceilings of everything else."""
    for row in run.measured[1]:
        report.add(**row)
    report.parameters["best"] = vars(run.ceilings)
    report.save()
    return ceilings_table(report)


def ceilings_table(report: Report) -> str:
    """Rates in GB/s and GFLOP/s."""
    rows = [
        {
            "what": row["what"],
            "how": row["how"],
            "tensor MB": row["tensor_bytes"] / 1e6,
            "median ms": row["median"] * 1e3,
            "rate": row["rate"] / 1e9,
            "unit": "GFLOP/s" if row["what"] == "matmul" else "GB/s",
        }
        for row in report.rows
    ]
    return table(rows)


def decode_small(run: Run, report: Report) -> str:
    """The small model: naive against cached, every path."""
    return _decode(run, report, run.plan.small, run.plan.small_points)


def decode_mha(run: Run, report: Report) -> str:
    """The 7B shape: naive against cached, every path."""
    return _decode(run, report, run.plan.mha, run.plan.mha_points)


def _decode(run: Run, report: Report, model: str, points: Points) -> str:
    report.parameters |= {"model": model, "weights": "random", "ceilings": vars(run.ceilings)}
    lm = run.model(model)
    for context, batch, paths in points:
        if run.late:
            report.notes.append(f"context {context}, batch {batch} was not begun: the time was out")
            continue
        point = Point(context, batch, run.plan.steps, run.plan.rounds)
        decode(lm, model, [point], paths, run.ceilings, report)
    return decode_table(report)


def profile(run: Run, report: Report) -> str:
    """Which kernels a compiled step of the 7B shape spends its time in (PyTorch's profiler)."""
    lm = run.model(run.plan.mha)
    for name in ("compiled", "dynamic") if run.plan.device.type == "cuda" else ("dynamic",):
        point = Point(run.plan.mha_points[0][0], 1, steps=4, rounds=1)
        path = make_path(name, lm, None)
        path.start(prompt(lm, point), point.steps)
        path.run(1)
        path.rewind()
        for row in _kernels(partial(path.run, point.steps), point.steps):
            report.add(model=run.plan.mha, context=point.context, path=name, **row)
    shown = [row for row in report.rows if row["rank"] < 14]
    return table(shown, ["path", "kernel", "calls_per_step", "us_per_step"])


def _kernels(function: Callable[[], object], steps: int) -> list[dict[str, Any]]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    cuda = torch.cuda.is_available()
    with watch(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True) as seen:
        function()
        if cuda:
            torch.cuda.synchronize()
    rows = [
        {
            "kernel": event.key[:90],
            "calls_per_step": event.count / steps,
            "us_per_step": (event.self_device_time_total if cuda else event.self_cpu_time_total) / steps,
        }
        for event in seen.key_averages()
    ]
    rows.sort(key=lambda row: -row["us_per_step"])
    everything = {
        "kernel": "(all)",
        "calls_per_step": sum(row["calls_per_step"] for row in rows),
        "us_per_step": sum(row["us_per_step"] for row in rows),
    }
    return [{"rank": i, **row} for i, row in enumerate([everything, *rows[:40]])]


def text(run: Run, report: Report) -> str:
    """Greedy text of the real small model on the GPU, in float32 and bfloat16, against the CPU's."""
    import kvlab

    if not _weights_here(run.plan.small, report):
        return "(skipped)"
    lm = kvlab.load(run.plan.small, device="cpu", dtype=torch.float32)
    new = 8 if run.plan.quick else 40
    prompts = PROMPTS[:2] if run.plan.quick else PROMPTS
    expected = [_greedy(lm, p, new).ids for p in prompts]
    for dtype in (torch.float32, torch.bfloat16):
        other = kvlab.load(run.plan.small, device=run.plan.device, dtype=dtype)
        for prompt_text, ids in zip(prompts, expected, strict=True):
            found = _greedy(other, prompt_text, new)
            same = next((i for i, (a, b) in enumerate(zip(ids, found.ids, strict=False)) if a != b), len(ids))
            report.add(
                dtype=str(dtype).removeprefix("torch."),
                prompt=prompt_text,
                text=found.text,
                tokens=len(ids),
                equal_tokens=same,
                max_logit_difference=_logit_gap(lm, other, prompt_text),
            )
    return table(report.rows, ["dtype", "prompt", "tokens", "equal_tokens", "max_logit_difference"])


def _greedy(lm: Decoder, prompt_text: str, new: int) -> Generation:
    from kvlab.generate import generate

    found = generate(lm, prompt_text, Cache(lm), new, progress=False)
    assert not isinstance(found, list)
    return found


def _logit_gap(lm: Decoder, other: Decoder, prompt_text: str) -> float:
    ids = torch.tensor([lm.tokenizer.encode(prompt_text)])
    with torch.no_grad():
        return float((lm(ids) - other(ids.to(other.device)).float().cpu()).abs().max())


def _weights_here(name: str, report: Report) -> bool:
    """Whether the weights of `name` are on this machine: nothing is downloaded here."""
    from kvlab.zoo.catalogue import CATALOGUE
    from kvlab.zoo.paths import model_folder
    from kvlab.zoo.store import WEIGHTS

    if name not in CATALOGUE:
        return True
    folder = model_folder(name)
    if any((folder / file).exists() for file in (WEIGHTS, CATALOGUE[name].file)):
        return True
    report.notes.append(
        f"skipped: the weights of {name} are not on this machine; fetch them (kvlab fetch {name}), "
        "or point KVLAB_HOME to a folder that has them."
    )
    return False


PARTS: dict[str, Part] = {
    "ceilings": ceilings_part,
    "decode-llama2-7b": decode_mha,
    "hold-100k": gpu_memory.hold,
    "memory": gpu_memory.memory,
    "growth": growth.growth_part,
    "window": gpu_window.window,
    "text": text,
    "decode-smollm2": decode_small,
    "profile": profile,
    "attention": gpu_attention.attention,
    "quantized": gpu_kernels.quantized,
    "pages": gpu_kernels.pages,
    "prefill": gpu_prefill.prefill,
    "together": gpu_together.together,
}
