"""`bench gpu`: every GPU figure of the course from one command, one JSON file a part.

A part that fails is recorded as failed, and the next one runs. A part is not begun when the time is out.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kvlab.measure.machine import clocks, device_name
from kvlab.measure.report import Report
from kvlab.measure.roofline import Ceilings, ceilings
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

NEEDS = (
    "bench gpu needs a CUDA GPU (80 GB for all parts) and a CUDA build of PyTorch, and finds none here; "
    "--allow-cpu runs every part on a tiny model instead, to see that it works."
)
Points = tuple[tuple[int, int, tuple[str, ...]], ...]
EAGER = ("naive", "dynamic", "static", "hf-dynamic")
ALL = (*EAGER[:3], "compiled", *EAGER[3:], "hf-compiled")


@dataclass(frozen=True)
class Plan:
    """How large everything is. Contexts in tokens; a decode point is (context, batch, paths)."""

    device: torch.device
    dtype: torch.dtype
    quick: bool
    small: str
    mha: str  # a model with as many KV heads as query heads
    gqa: str  # and one with fewer
    windowed: str  # one with sliding windows
    small_points: Points
    mha_points: Points
    steps: int
    rounds: int
    memory_points: tuple[tuple[int, int], ...]  # (tokens, batch)
    memory_limit: int  # bytes of cache; larger points are left out
    hold_tokens: int
    hold_chunk: int
    hold_seconds: float  # the prefill may take so long; the rest is then written directly
    growth: tuple[int, int]  # tokens before, tokens appended one by one
    attention_points: tuple[tuple[int, int], ...]  # (slots, batch)
    window_points: tuple[int, ...]  # tokens
    kernel_points: tuple[tuple[int, int], ...]  # (slots, batch): multiples of a group and of a page
    prompt_points: tuple[int, ...]  # tokens of a prompt under fixed patterns
    together_tokens: int  # in the cache that has several knobs turned


def full_plan(quick: bool = False) -> Plan:
    """For one 80 GB GPU."""
    most = (*EAGER, "compiled")
    mha = ((128, 1, most), (512, 1, EAGER), (2048, 1, ALL), (8192, 1, most), (2048, 8, most))
    small = ((128, 1, most), (512, 1, EAGER), (2048, 1, ALL), (8000, 1, EAGER), (2048, 16, EAGER))
    memory = tuple((tokens, batch) for batch in (1, 4, 16) for tokens in (1024, 4096, 16_384))
    plan = Plan(
        device=torch.device("cuda"), dtype=torch.bfloat16, quick=quick,
        small="smollm2-135m", mha="llama2-7b", gqa="llama3-8b", windowed="gemma3-270m",
        small_points=small, mha_points=mha, steps=8, rounds=7,
        memory_points=memory, memory_limit=18_000_000_000,
        hold_tokens=100_000, hold_chunk=2048, hold_seconds=60.0, growth=(2048, 512),
        attention_points=((8192, 1), (131_072, 1), (8192, 8)),
        window_points=(256, 512, 1024, 4096, 16_384, 32_768),
        kernel_points=tuple((n, b) for b in (1, 8) for n in (8192, 32_768, 65_536, 100_000, 131_072)),
        prompt_points=(8192, 16_384), together_tokens=65_536,
    )  # fmt: skip
    if not quick:
        return plan
    shorter = {
        "small_points": ((128, 1, most),), "mha_points": ((128, 1, most),), "rounds": 3,
        "memory_points": ((1024, 1), (4096, 1)), "hold_seconds": 5.0, "growth": (512, 64),
        "attention_points": ((8192, 1),), "window_points": (256, 4096),
        "kernel_points": ((8192, 1), (65_536, 8)), "prompt_points": (8192,), "together_tokens": 16_384,
    }  # fmt: skip
    return Plan(**{**vars(plan), **shorter})


def tiny_plan() -> Plan:
    """Every part on a CPU in seconds, for the tests: the figures mean nothing."""
    points = ((16, 1, ("naive", "dynamic", "static", "hf-dynamic")), (16, 2, ("dynamic", "static")))
    return Plan(
        device=torch.device("cpu"), dtype=torch.float32, quick=True,
        small="tiny", mha="tiny", gqa="tiny", windowed="tiny-gemma3",
        small_points=points, mha_points=points, steps=2, rounds=2,
        memory_points=((32, 1), (64, 2)), memory_limit=100_000_000,
        hold_tokens=96, hold_chunk=32, hold_seconds=20.0, growth=(16, 8), attention_points=((64, 1), (64, 2)),
        window_points=(16,), kernel_points=((64, 1), (64, 2)),
        prompt_points=(128,), together_tokens=192,
    )  # fmt: skip


@dataclass
class Run:
    """What the parts share."""

    plan: Plan
    folder: Path
    command: str
    end: float = float("inf")  # of time.monotonic(): nothing is begun after it
    status: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def ceilings(self) -> Ceilings:
        """Measured once, by the first part that asks."""
        return self.measured[0]

    @cached_property
    def measured(self) -> tuple[Ceilings, list[dict[str, Any]]]:
        """The ceilings and their rows."""
        return ceilings(self.plan.device, self.plan.dtype, self.plan.quick)

    @property
    def late(self) -> bool:
        """Whether the time is out."""
        return time.monotonic() > self.end

    def model(self, shape: str) -> Decoder:
        """A model of this shape with random weights."""
        from kvlab.zoo import random

        lm = random(shape, device=self.plan.device, dtype=self.plan.dtype)
        free_memory()  # making it took more than it holds
        return lm


Part = Callable[[Run, Report], str]  # fills the report and returns its table


class DeviceLost(RuntimeError):
    """The GPU answers no more in this process; another one can go on. `parts` are those not begun."""

    def __init__(self, parts: list[str]):
        super().__init__("the GPU does not answer in this process any more")
        self.parts = parts


def run_parts(run: Run, parts: dict[str, Part], progress: Callable[[str], None] = print) -> int:
    """Run `parts` in order; returns how many failed.

    Raises:
        DeviceLost: a part has left the GPU unusable for this process.
    """
    for name, part in parts.items():
        report, file = new_report(run, name), f"gpu-{name}.json"
        start = time.monotonic()
        if run.late:
            report.errors.append("not begun: the time was out (--minutes)")
            report.save()
            run.status.append({"part": name, "state": "not begun", "seconds": 0.0, "file": file})
            continue
        progress(f"[{name}] …")
        try:
            progress(part(run, report))
        except Exception as error:
            report.fail(name, error)
        lost = not healthy(run.plan.device)
        if not lost:
            free_memory()
        report.parameters |= {"seconds": time.monotonic() - start, "clocks_after": clocks()}
        report.save()
        if report.errors:
            state = "with errors" if report.rows else "failed"
        else:
            state = "done" if report.rows else "skipped"
        for line in (*report.notes, *report.errors):
            progress(f"[{name}] {line}")
        run.status.append({"part": name, "state": state, "seconds": time.monotonic() - start, "file": file})
        if lost:
            raise DeviceLost(list(parts)[list(parts).index(name) + 1 :])
    return sum(row["state"] not in ("done", "skipped") for row in run.status)


def healthy(device: torch.device) -> bool:
    """Whether the device still computes: after some errors CUDA refuses everything in a process."""
    try:
        return bool(torch.ones(1, device=device).sum().item() == 1)
    except RuntimeError:
        return False


def new_report(run: Run, part: str) -> Report:
    """An empty report of one part."""
    plan = run.plan
    return Report(
        bench=f"gpu {part}",
        device=device_name(plan.device),
        parameters={"dtype": str(plan.dtype).removeprefix("torch."), "quick": plan.quick},
        command=run.command,
        path=run.folder / f"gpu-{part}.json",
    )


def free_memory() -> None:
    """Give back what a part has held, compiled graphs and their pools included."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_now(device: torch.device) -> dict[str, int | None]:
    """Bytes of PyTorch's allocator on the GPU: in use, reserved, and the highest of both; None on a CPU."""
    if device.type != "cuda":
        return {"gpu_allocated": None, "gpu_reserved": None, "gpu_peak": None, "gpu_peak_reserved": None}
    return {
        "gpu_allocated": torch.cuda.memory_allocated(device),
        "gpu_reserved": torch.cuda.memory_reserved(device),
        "gpu_peak": torch.cuda.max_memory_allocated(device),
        "gpu_peak_reserved": torch.cuda.max_memory_reserved(device),
    }


def status_table(run: Run) -> str:
    """What became of every part."""
    return table(run.status)
