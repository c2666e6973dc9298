"""transformers' StaticCache on the lesson's own weights: what it does when it is full, or used again.

transformers belongs to the `interop` extra; where it is not installed the lesson says so and goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.model.config import LayerType

from .recorded import NotMeasured

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@dataclass
class Peer:
    """The lesson's model as transformers runs it, with the same weights."""

    model: Any

    def cache(self, capacity: int) -> Any:
        """A `transformers.StaticCache` of so many slots."""
        from transformers import StaticCache

        return StaticCache(config=self.model.config, max_cache_len=capacity)

    def logits(self, ids: Sequence[int], cache: Any) -> Tensor:
        """`forward` on new ids: the last row of logits, `[vocab]`; the cache is extended."""
        given = torch.tensor([list(ids)], device=self.model.device)
        return self.model(given, past_key_values=cache, logits_to_keep=1).logits[0, -1]

    def fill(self, ids: Sequence[int], cache: Any) -> list[str]:
        """Feed ids one by one; the names of the errors that came, each once counted as `name × times`."""
        errors: list[str] = []
        for i in ids:
            try:
                self.logits([i], cache)
            except (IndexError, RuntimeError) as error:
                errors.append(type(error).__name__)
        return [f"{name} × {errors.count(name)}" for name in dict.fromkeys(errors)]


def peer(lm: Decoder, window: int | None = None) -> Peer | NotMeasured:
    """transformers' model on the weights of `lm`; with `window`, all its layers see so many tokens only."""
    if find_spec("transformers") is None:
        text = 'transformers is not installed here: `pip install "kvlab[interop]"` and run this again.'
        return NotMeasured("transformers", text)
    from kvlab.measure.peers import transformers_twin

    if window is not None:
        lm = copy.copy(lm)
        sliding: LayerType = "sliding"
        kinds = (sliding,) * lm.config.num_hidden_layers
        lm.config = replace(lm.config, layer_types=kinds, sliding_window=window)
    return Peer(transformers_twin(lm))


def errors_by_position(peer: Peer, lm: Decoder, ids: Sequence[int], capacity: int) -> list[float]:
    """Feed a text one by one over a `StaticCache`: each token's largest logit error against `lm`."""
    wanted = lm(torch.tensor([list(ids)], device=lm.device))[0]  # [tokens, vocab]
    cache = peer.cache(capacity)
    return [float((peer.logits([i], cache) - row).abs().max()) for i, row in zip(ids, wanted, strict=True)]
