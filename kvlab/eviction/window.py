"""Keep the newest tokens."""

from __future__ import annotations

from kvlab.eviction.sink_recent import SinkRecent


class Window(SinkRecent):
    """The last `recent` tokens stay, at their own positions, and nothing else: no sinks.

    As a window that a model was trained with (Longformer, Beltagy et al., 2020; Mistral 7B, Jiang et al.,
    2023), but put on a model that was not: what its heads rest on, the first token, is gone.

    Raises:
        ValueError: if `recent` is less than 1.
    """

    def __init__(self, recent: int = 256):
        super().__init__(sinks=0, recent=recent)
