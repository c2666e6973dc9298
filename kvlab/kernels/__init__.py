"""Triton kernels for one decode step's attention: less read from memory, the same result.

Nothing here is imported unless there is a CUDA device (or a test asks for Triton's interpreter): `import
kvlab` needs PyTorch and NumPy only. Every kernel has a reference in plain PyTorch beside it.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch


def why_not(device: torch.device, interpret: bool = True) -> str | None:
    """Why the kernels cannot run on `device`, in a clause; None: they can.

    interpret: whether Triton's interpreter will do where there is no CUDA: it must have been switched on
    (TRITON_INTERPRET=1 before Triton is imported), is very slow, and shows that results are right.
    """
    if not _installed():
        return "Triton is not installed"
    if device.type == "cuda" or (interpret and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"Triton's kernels run on CUDA, not on {device.type}"


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
