"""Evictions: which entries stay. One idea a file."""

from kvlab.eviction.base import Columns, Eviction
from kvlab.eviction.sink_recent import SinkRecent

__all__ = ["Columns", "Eviction", "SinkRecent"]
