"""The ceilings of a machine, measured, and the fastest that a step can be under them.

A step must move its bytes and do its FLOPs; at best it does both at once. (Roofline: Williams, Waterman &
Patterson, 2009.) Bandwidth is measured on tensors far larger than any cache: 512 MB and more on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kvlab.compiled import has_compiler
from kvlab.measure.clock import measure

MB = 1_000_000
ROW = 4000  # numbers in a row; divides all sizes


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at best, measured."""

    copy: float  # bytes/s, read and written bytes added
    read: float  # bytes/s
    matmul: float  # FLOP/s of a large matrix product

    def bound(self, moved: int, flops: int) -> float:
        """The least seconds for work that must read `moved` bytes and do `flops` FLOPs."""
        return max(moved / self.read, flops / self.matmul)

    def copy_bound(self, moved: int) -> float:
        """Seconds that a plain copy takes to move `moved` bytes."""
        return moved / self.copy


def ceilings(
    device: torch.device | str, dtype: torch.dtype, quick: bool = False
) -> tuple[Ceilings, list[dict[str, Any]]]:
    """The ceilings of `device`, and one row for each measurement; the best median counts."""
    device = torch.device(device)
    rows = list(_measurements(device, dtype, quick))

    def best(what: str) -> float:
        return max(row["rate"] for row in rows if row["what"] == what)

    return Ceilings(best("copy"), best("read"), best("matmul")), rows


def _measurements(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[dict[str, Any]]:
    repeats = 3 if quick else 10
    for size in sizes(device, quick):
        source = torch.rand(size // 4, device=device)  # float32; zeros would take less power
        target = torch.empty_like(source)
        timing = measure(partial(target.copy_, source), device, repeats)
        yield _row("copy", "y.copy_(x)", size, 2 * size / timing.median, timing)
        del target
        for how, function in readers(source, quick).items():
            timing = measure(function, device, repeats)
            yield _row("read", how, size, size / timing.median, timing)
        del source
    for n in matrix_sizes(device, quick):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        timing = measure(partial(torch.mm, a, b, out=torch.empty_like(a)), device, repeats)
        how = f"{n}×{n}×{n} {str(dtype).removeprefix('torch.')}"
        yield _row("matmul", how, n * n * dtype.itemsize, 2 * n**3 / timing.median, timing)


def sizes(device: torch.device, quick: bool) -> list[int]:
    """Bytes of the tensors that are copied and read: far beyond every cache."""
    if quick:
        return [64 * MB]
    return [1_000 * MB, 4_000 * MB] if device.type == "cuda" else [512 * MB, 1_024 * MB]


def matrix_sizes(device: torch.device, quick: bool) -> list[int]:
    """Sides of the square matrices that are multiplied."""
    if quick:
        return [512]
    return [4096, 8192] if device.type == "cuda" else [1024, 2048]


def readers(x: Tensor, quick: bool) -> dict[str, Callable[[], object]]:
    """Ways to read all of `x` and write next to nothing; which one is fastest differs by machine."""
    ways: dict[str, Callable[[], object]] = {"x.sum()": x.sum}
    if not quick:
        ways["x, row by row"] = lambda: x.view(-1, ROW).sum(1)
        ways["x.amax()"] = x.amax
        if x.device.type == "cpu" and has_compiler():
            row = torch.ones(ROW)
            summed = torch.compile(_multiply_and_sum, dynamic=False)
            ways["(matrix * row).sum(-1), compiled"] = lambda: summed(x.view(-1, ROW), row)
    return ways


def _multiply_and_sum(matrix: Tensor, row: Tensor) -> Tensor:
    """What a compiled decode step does with every weight on a CPU."""
    return (matrix * row).sum(dim=-1)


def _row(what: str, how: str, size: int, rate: float, timing: Any) -> dict[str, Any]:
    return {"what": what, "how": how, "tensor_bytes": size, "rate": rate, **timing.row()}
