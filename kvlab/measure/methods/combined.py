"""Several knobs of one cache turned together, each as in the method of that name alone.

Four bits are taken by token here, so that a page of entries can be read without the blocks around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvlab.codecs import Quantize
from kvlab.measure.methods.registry import METHODS, method
from kvlab.measure.quality_runs import Task

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

INT4 = Quantize(4, "token", group_size=32, residual=32)


def _together(*names: str) -> None:
    """A method of all these; "int4" is INT4, the others are methods."""

    def arguments(lm: Decoder, task: Task) -> dict[str, Any]:
        knobs: dict[str, Any] = {"codec": INT4} if "int4" in names else {}
        for name in names:
            knobs |= {} if name == "int4" else METHODS[name].arguments(lm, task)
        return knobs

    method("+".join(names), "combined", " and ".join(names), arguments)


_together("int4", "snapkv-50")
_together("int4", "snapkv-25")
_together("int4", "quest-25")
_together("int4", "quest-12.5")
_together("snapkv-50", "quest-25")
_together("int4", "snapkv-50", "quest-25")
_together("kivi-2-sink", "snapkv-50")
_together("turbo-3", "quest-25")
_together("int4", "indexer-25")
