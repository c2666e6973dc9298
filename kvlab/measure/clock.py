"""Time, honestly: warm up, repeat, keep every sample, tell the median and the spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

ONE_THREAD = (
    "one thread, whose running time is counted: programs beside it take none of it, "
    "but they share caches and memory with it"
)


@dataclass
class Timing:
    """Samples of one thing, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Half of the samples are faster. NaN where there are none."""
        return float(np.median(self.seconds)) if self.seconds else float("nan")

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the samples is faster than the first, a quarter slower than the second."""
        if not self.seconds:
            return float("nan"), float("nan")
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median: 0.05 means five percent."""
        low, high = self.quartiles
        return (high - low) / self.median

    def row(self) -> dict[str, object]:
        """What a recorded row keeps: raw samples, median, quartiles."""
        return {"seconds": self.seconds, "median": self.median, "quartiles": list(self.quartiles)}


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call.

    On CUDA between two events on the stream, the first recorded while the device is idle: launch delays
    that the device waits for are inside.
    """
    synchronize(device)
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    function()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3


def running(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call; with one CPU thread, those in which it was running (ONE_THREAD)."""
    if device.type != "cpu" or torch.get_num_threads() > 1:
        return once(function, device)
    start = time.thread_time()
    function()
    return time.thread_time() - start


def measure(
    function: Callable[[], object],
    device: torch.device | str = "cpu",
    repeats: int = 10,
    warmup: int = 2,
    calls: int = 1,
) -> Timing:
    """Time `function`, called `warmup` times before; a sample is the mean of `calls` calls in a row."""
    device = torch.device(device)

    def several() -> None:
        for _ in range(calls):
            function()

    for _ in range(warmup):
        function()
    return Timing([once(several, device) / calls for _ in range(repeats)])


def alternate(
    functions: Mapping[str, Callable[[], float]],
    rounds: int,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Samples of several things, taken in turn, so that a slow minute of the machine meets all of them.

    Each function takes one sample and returns its seconds. Every round begins with another one. `done`
    is called after every sample.
    """
    names = list(functions)
    timings = {name: Timing() for name in names}
    for i in range(rounds):
        shift = i % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            timings[name].seconds.append(functions[name]())
            done()
    return timings
