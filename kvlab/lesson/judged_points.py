"""Rows of a recorded quality run, and the same measured again on one text: what several lessons draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kvlab
from kvlab.measure.quality import Settings, quality
from kvlab.measure.quality_stats import Interval, t_interval, wilson

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@dataclass(frozen=True)
class Judged:
    """One method, as it was recorded."""

    name: str
    kl: Sequence[float]  # nats a token, one a text
    right: int  # needles found with the question asked afterwards
    asked: int

    @property
    def interval(self) -> Interval:
        return t_interval(self.kl)

    @property
    def found(self) -> Interval:
        return wilson(self.right, self.asked)


def kl_of_first_text(
    lm: Decoder, caches: Mapping[str, Mapping[str, Any]], tokens: int = 512, further: int = 64
) -> dict[str, float]:
    """KL on the first text of the recorded run, token by token.

    caches: name -> arguments of `kvlab.Cache`. The first text is the same for any number of texts.
    """
    settings = Settings(offsets=1, tokens=tokens, further=further, evaluations=("kl",))
    made = {name: _factory(lm, arguments) for name, arguments in caches.items()}
    found = quality(lm, made, settings, progress=False)
    return {name: result["kl"][0] for name, result in found.items()}


def _factory(lm: Decoder, arguments: Mapping[str, Any]) -> Any:
    return lambda task: kvlab.Cache(lm, **arguments)
