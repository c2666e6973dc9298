"""kvlab: every idea about the KV cache as one small class, tried on a real model."""

from kvlab import doctor
from kvlab.cache import Cache, CacheError
from kvlab.codecs import (
    CSR,
    KIVI,
    BFloat16,
    BytePlanes,
    Chain,
    ErrorBounded,
    Float16,
    Fp8,
    Hadamard,
    Huffman,
    Int8,
    Lexico,
    LowRank,
    Mustafar,
    OwnBasis,
    PerLayer,
    Quantize,
    Rans,
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
    "AdaKV",
    "BFloat16",
    "BytePlanes",
    "CSR",
    "Cache",
    "CacheError",
    "Chain",
    "ConsecutiveMerge",
    "Dynamic",
    "ErrorBounded",
    "Float16",
    "Fp8",
    "Generation",
    "H2O",
    "Hadamard",
    "Huffman",
    "Hybrid",
    "Int8",
    "KIVI",
    "LSHMerge",
    "Lexico",
    "LowRank",
    "ModelError",
    "Mustafar",
    "NoStore",
    "Only",
    "OwnBasis",
    "PerLayer",
    "PyramidKV",
    "Quantize",
    "RandomKeep",
    "Rans",
    "Sampling",
    "SinkRecent",
    "Sliding",
    "SnapKV",
    "Static",
    "StreamingLLM",
    "TOVA",
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
