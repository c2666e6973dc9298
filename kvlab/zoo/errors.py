"""The one exception of the zoo: its message says what was wrong and what to do."""

from __future__ import annotations


class ModelError(RuntimeError):
    """A model cannot be had or cannot be used; the message is for the person who asked for it."""
