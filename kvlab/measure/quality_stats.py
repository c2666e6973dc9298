"""Intervals: what a handful of offsets or needles allows to say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# 97.5 % quantiles of Student's t for 1, 2, 3 … degrees of freedom (Student, 1908)
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
_NORMAL = 1.960


class Interval(NamedTuple):
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of `values` and its 95 % interval by Student's t; one value alone has no interval (NaN).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    freedom = len(values) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else _NORMAL + 2.6 / freedom  # within .01 of the true one
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def geometric(values: Sequence[float]) -> Interval:
    """Geometric mean of `values` and its 95 % interval: for KL, which differs by factors from text to text.

    Raises:
        ValueError: no values, or one that is not above zero.
    """
    if not values or min(values) <= 0:
        raise ValueError("a geometric mean needs values above zero.")
    return Interval(*(math.exp(x) for x in t_interval([math.log(v) for v in values])))


def times(worse: Sequence[float], better: Sequence[float]) -> Interval:
    """How many times larger `worse` is than `better`, offset by offset: geometric mean and 95 % interval.

    Both were measured on the same texts, so a text that is hard for all methods cancels out. An interval
    above 1 says that the difference is not chance.

    Raises:
        ValueError: not equally many values, or one that is not above zero.
    """
    if len(worse) != len(better) or min(*worse, *better) <= 0:
        raise ValueError("times compares equally many values above zero, text by text.")
    return geometric([w / b for w, b in zip(worse, better, strict=True)])


def each_needle(needles: Mapping[str, Mapping[str, Sequence[int]]]) -> list[int]:
    """1 or 0 for each needle of a result's "needles" or "needles_aware": of all lengths and kinds."""
    return [hit for kinds in needles.values() for one in kinds.values() for hit in one]


def wilson(hits: int, tries: int) -> Interval:
    """A share of `tries` and its 95 % interval (Wilson, 1927), which stays within 0 … 1.

    Raises:
        ValueError: no tries, or more hits than tries.
    """
    if tries < 1 or not 0 <= hits <= tries:
        raise ValueError(f"{hits} hits of {tries} tries is not a share.")
    share, z2 = hits / tries, _NORMAL**2
    centre = (share + z2 / (2 * tries)) / (1 + z2 / tries)
    half = _NORMAL / (1 + z2 / tries) * math.sqrt(share * (1 - share) / tries + z2 / (4 * tries**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))
