"""transformers' EncoderDecoderCache on a small random T5: what it projects when, and its trap.

transformers belongs to the `interop` extra; where it is not installed the lesson says so and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .recorded import NotMeasured


@dataclass
class Peer:
    """A T5 with random weights; `projected` notes the source rows of every cross-attention key projection."""

    model: Any
    projected: list[int] = field(default_factory=list)

    def encode(self, ids: Sequence[int]) -> Any:
        """The encoder's output for one source."""
        return self.model.encoder(torch.tensor([list(ids)]))

    def cache(self) -> Any:
        """An empty `transformers.EncoderDecoderCache`: one cache for each of the two attentions."""
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(*(DynamicCache(config=self.model.config) for _ in range(2)))

    def step(self, ids: Sequence[int], source: Any, cache: Any = None) -> Tensor:
        """`forward` on new target ids: the last row of logits, `[vocab]`; the cache is extended."""
        given = torch.tensor([list(ids)])
        out = self.model(
            encoder_outputs=source,
            decoder_input_ids=given,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out.logits[0, -1]


def peer(seed: int = 0) -> Peer | NotMeasured:
    """A T5 of two layers for a vocabulary of 93, in float64: a mistake cannot be taken for rounding."""
    if find_spec("transformers") is None:
        text = 'transformers is not installed here: `pip install "kvlab[interop]"` and run this again.'
        return NotMeasured("transformers", text)
    from transformers import T5Config, T5ForConditionalGeneration

    shape: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = T5ForConditionalGeneration(T5Config(vocab_size=93, dropout_rate=0.0, **shape))
    found = Peer(model.double().eval())
    keys = model.decoder.block[0].layer[1].EncDecAttention.k
    keys.register_forward_pre_hook(lambda _module, args: found.projected.append(args[0].shape[1]))
    return found
