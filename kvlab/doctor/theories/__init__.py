"""One theory for each way to get positions, masks or tokens wrong: what is laid on the sheet instead."""

from kvlab.doctor.theories.base import Theory
from kvlab.doctor.theories.masks import MASKS, PADDED_MASKS
from kvlab.doctor.theories.numbered import counted, dropped, evicted, full_at
from kvlab.doctor.theories.positions import PADDED_POSITIONS, POSITIONS
from kvlab.doctor.theories.tokens import TOKENS, after, instead, stale, uncleared

__all__ = [
    "MASKS",
    "PADDED_MASKS",
    "PADDED_POSITIONS",
    "POSITIONS",
    "TOKENS",
    "Theory",
    "after",
    "counted",
    "dropped",
    "evicted",
    "full_at",
    "instead",
    "stale",
    "uncleared",
]
