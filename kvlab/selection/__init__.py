"""Selections: which entries a query reads. One idea a file."""

from kvlab.selection.base import Pick, Selection
from kvlab.selection.duo import ByHead, Duo, copy_scores, retrieval_heads
from kvlab.selection.gate import Gate
from kvlab.selection.indexer import Indexer
from kvlab.selection.lsh import Buckets, LSHSampling
from kvlab.selection.pattern import Pattern
from kvlab.selection.patterns import AShape, BigBird, Dilated, FixedColumns, LocalWindow, Longformer, Strided
from kvlab.selection.quest import Quest
from kvlab.selection.simhash import SimHash
from kvlab.selection.sparq import SparQ
from kvlab.selection.topk import TopK

__all__ = [
    "AShape",
    "BigBird",
    "Buckets",
    "ByHead",
    "Dilated",
    "Duo",
    "FixedColumns",
    "Gate",
    "Indexer",
    "LSHSampling",
    "Longformer",
    "Pattern",
    "Pick",
    "Quest",
    "Selection",
    "SimHash",
    "SparQ",
    "Strided",
    "TopK",
    "LocalWindow",
    "copy_scores",
    "retrieval_heads",
]
