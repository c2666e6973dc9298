"""Models that many tests share. Don't change their weights."""

from __future__ import annotations

import pytest

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
