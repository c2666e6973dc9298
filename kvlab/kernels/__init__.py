"""Triton kernels for one decode step's attention: less read from memory, the same result.

Nothing here is imported unless there is a CUDA device (or a test asks for Triton's interpreter): `import
kvlab` needs PyTorch and NumPy only. Every kernel has a reference in plain PyTorch beside it.
"""

from __future__ import annotations

import importlib.util
import os

import torch


def why_not(device: torch.device) -> str | None:
    """Why the kernels cannot run on `device`, in a sentence; None: they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed."
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton's kernels run on CUDA, not on {device.type}."
    return None
