"""One row times a matrix: what a decode step spends its time on, and how a CPU does it fast."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """x @ weight.T, weight `[out, in]`."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x `[..., in]` times weight `[out, in]`, transposed: `[..., out]`."""
    one_row = x.numel() == x.shape[-1]
    if one_row and torch.compiler.is_compiling() and weight.is_contiguous() and weight.device.type == "cpu":
        if _measured.get("sum is faster"):  # asked of `sum_is_faster` before the step was traced
            return (weight * x.reshape(1, -1)).sum(dim=-1).view(*x.shape[:-1], -1)
    return F.linear(x, weight)


def fuse(*parts: Linear) -> Tensor:
    """One matrix `[sum of outs, in]` of several that read the same input: one product instead of many.

    The parts become views of it, so that each still goes by its own name. On a CPU it is laid out column
    by column, which the library streams faster for the few rows of a decode step.
    """
    whole = torch.cat([part.weight for part in parts])
    if whole.device.type == "cpu":
        whole = whole.t().contiguous().t()
    for part, weight in zip(parts, whole.split([len(part.weight) for part in parts]), strict=True):
        part.weight = nn.Parameter(weight, requires_grad=False)
    return whole


_measured: dict[str, bool] = {}  # what this process has found out about its CPU


def sum_is_faster() -> bool:
    """Whether a compiled sum of products beats the library's matrix product of one row, measured once.

    A single row uses each weight once, so memory should set the pace. On some CPUs the library reaches
    a third of that pace and the sum nearly all of it; on others the library is the faster one.
    """
    if "sum is faster" not in _measured:
        compiled = torch.compile(lambda weight, x: (weight * x).sum(dim=-1), dynamic=False)
        weights = [torch.rand(4096, 1024) for _ in range(8)]  # 134 MB: more than most caches hold
        x = torch.rand(1, 1024)
        library = _seconds(lambda weight, x: F.linear(x, weight), weights, x)
        _measured["sum is faster"] = _seconds(compiled, weights, x) < 0.9 * library
    return _measured["sum is faster"]


def _seconds(product: Callable[..., Tensor], weights: list[Tensor], x: Tensor) -> float:
    samples = []
    for _ in range(6):  # the first one warms up
        start = time.perf_counter()
        for weight in weights:
            product(weight, x)
        samples.append(time.perf_counter() - start)
    return sorted(samples[1:])[2]
