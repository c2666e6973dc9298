"""One row times a matrix: what a decode step spends its time on, and how a CPU does it fast."""

from __future__ import annotations

import math

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
    few_rows = x.numel() <= 4 * x.shape[-1]
    if few_rows and weight.dtype in _BLOCKED and weight.device.type == "cpu" and weight.is_contiguous():
        return in_blocks(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], -1)
    return F.linear(x, weight)


# MKL's product of a matrix and a row or two runs on one core, and one core alone reads slower than memory can
# deliver; its batched product uses all of them. Other libraries, and smaller dtypes, do well as they are.
_BLOCKED = (torch.float32, torch.float64) if torch.backends.mkl.is_available() else ()


def in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """x `[rows, in]` times weight `[out, in]`, transposed, as a batch of up to 16 blocks: `[rows, out]`."""
    (rows, size), out = x.shape, len(weight)
    blocks = math.gcd(out, 16)
    # `x` transposed last, for its strides: MKL is several times slower where it has to turn the rows itself.
    columns = x.expand(blocks, rows, size).transpose(1, 2)
    return torch.bmm(weight.view(blocks, -1, size), columns).view(out, rows).t()


def fuse(*parts: Linear) -> Tensor:
    """One matrix `[sum of outs, in]` of several that read the same input: one product instead of many.

    The parts become views of it, so that each still goes by its own name.
    """
    whole = torch.cat([part.weight for part in parts])
    for part, weight in zip(parts, whole.split([len(part.weight) for part in parts]), strict=True):
        part.weight = nn.Parameter(weight, requires_grad=False)
    return whole
