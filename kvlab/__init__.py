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
from kvlab.eviction import (
    H2O,
    TOVA,
    AdaKV,
    ConsecutiveMerge,
    LSHMerge,
    Only,
    PyramidKV,
    RandomKeep,
    SinkRecent,
    SnapKV,
    StreamingLLM,
    Window,
)
from kvlab.generate import Generation, generate, stream
from kvlab.measure.plan import plan
from kvlab.record import record
from kvlab.sampling import Sampling
from kvlab.selection import TopK
from kvlab.stores import Dynamic, Hybrid, NoStore, Sliding, Static
from kvlab.zoo import ModelError, load, random

__version__ = "0.1.0"

__all__ = [
    "H2O",
    "KIVI",
    "TOVA",
    "AdaKV",
    "BFloat16",
    "Cache",
    "CacheError",
    "Chain",
    "ConsecutiveMerge",
    "Dynamic",
    "Float16",
    "Fp8",
    "Generation",
    "Hadamard",
    "Hybrid",
    "Int8",
    "LSHMerge",
    "ModelError",
    "NoStore",
    "Only",
    "PerLayer",
    "PyramidKV",
    "Quantize",
    "RandomKeep",
    "Sampling",
    "SinkRecent",
    "Sliding",
    "SnapKV",
    "Static",
    "StreamingLLM",
    "TopK",
    "TurboQuant",
    "Window",
    "doctor",
    "generate",
    "load",
    "plan",
    "random",
    "record",
    "stream",
]
