"""Selections: which entries a query reads. One idea a file."""

from kvlab.selection.base import Pick, Selection
from kvlab.selection.topk import TopK

__all__ = ["Pick", "Selection", "TopK"]
