"""Models that many tests share. Don't change their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():  # Triton reads this once, when it is first imported, perhaps by torch
    os.environ.setdefault("TRITON_INTERPRET", "1")

import kvlab
from kvlab.model import Decoder


@pytest.fixture(scope="session")
def smollm2() -> Decoder:
    """SmolLM2-135M-Instruct, float32, CPU."""
    return kvlab.load("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def gemma3() -> Decoder:
    """Gemma 3 270M, float32, CPU."""
    return kvlab.load("gemma3-270m", device="cpu")


@pytest.fixture(scope="session")
def tiny() -> Decoder:
    """The small random Llama."""
    return kvlab.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def exact() -> Decoder:
    """The tiny model in float64: differences that are not rounding show."""
    return kvlab.load("tiny", device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def no_gradients() -> Iterator[None]:
    """As in a lesson, which switches gradients off; a module asks for it with `pytestmark`."""
    with torch.no_grad():
        yield
