"""kvlab: every idea about the KV cache as one small class, tried on a real model."""

from kvlab import doctor
from kvlab.cache import Cache, CacheError
from kvlab.codecs import KIVI, Int8, Quantize
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
    "Cache",
    "CacheError",
    "Dynamic",
    "Generation",
    "Hybrid",
    "Int8",
    "ModelError",
    "NoStore",
    "Quantize",
    "Sampling",
    "SinkRecent",
    "Sliding",
    "Static",
    "TopK",
    "doctor",
    "generate",
    "load",
    "plan",
    "random",
    "record",
    "stream",
]
