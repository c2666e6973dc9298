"""Evictions: which entries stay. One idea a file."""

from kvlab.eviction.adakv import AdaKV
from kvlab.eviction.base import Columns, Eviction, Merged
from kvlab.eviction.consecutive_merge import ConsecutiveMerge
from kvlab.eviction.h2o import H2O
from kvlab.eviction.lsh_merge import LSHMerge
from kvlab.eviction.merging import Merging
from kvlab.eviction.only import Only
from kvlab.eviction.pyramidkv import PyramidKV
from kvlab.eviction.random_keep import RandomKeep
from kvlab.eviction.scored import Scored
from kvlab.eviction.sink_recent import SinkRecent
from kvlab.eviction.snapkv import SnapKV
from kvlab.eviction.streaming_llm import StreamingLLM
from kvlab.eviction.tova import TOVA
from kvlab.eviction.window import Window

__all__ = [
    "H2O",
    "TOVA",
    "AdaKV",
    "Columns",
    "ConsecutiveMerge",
    "Eviction",
    "LSHMerge",
    "Merged",
    "Merging",
    "Only",
    "PyramidKV",
    "RandomKeep",
    "Scored",
    "SinkRecent",
    "SnapKV",
    "StreamingLLM",
    "Window",
]
