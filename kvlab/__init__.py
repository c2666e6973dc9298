"""kvlab: every idea about the KV cache as one small class, tried on a real model."""

from kvlab import doctor
from kvlab.cache import Cache, CacheError
from kvlab.codecs import (
    KIVI,
    BFloat16,
    Chain,
    Float16,
    Fp8,
    Hadamard,
    Int8,
    PerLayer,
    Quantize,
    TurboQuant,
)
from kvlab.eviction import SinkRecent
from kvlab.generate import Generation, generate, stream
from kvlab.measure.plan import plan
from kvlab.record import record
from kvlab.sampling import Sampling
from kvlab.selection import TopK
from kvlab.stores import Dynamic, Hybrid, NoStore, Sliding, Static
from kvlab.zoo import ModelError, load, random

__version__ = "0.1.0"

__all__ = [
    "KIVI",
    "BFloat16",
    "Cache",
    "CacheError",
    "Chain",
    "Dynamic",
    "Float16",
    "Fp8",
    "Generation",
    "Hadamard",
    "Hybrid",
    "Int8",
    "ModelError",
    "NoStore",
    "PerLayer",
    "Quantize",
    "Sampling",
    "SinkRecent",
    "Sliding",
    "Static",
    "TopK",
    "TurboQuant",
    "doctor",
    "generate",
    "load",
    "plan",
    "random",
    "record",
    "stream",
]
