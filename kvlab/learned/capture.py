"""What a model's attention is on some text: the lesson that an indexer learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.record import record

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

# Where in the corpus windows begin, as shares of it. The quality bench judges on stretches from 0, 1/5, 2/5,
# 3/5 and 4/5 on, and its texts with needles are drawn at random: a test sees to it that none is used twice.
TRAINING = tuple((i + 0.5) / 10 for i in range(10))
HELD_OUT = tuple((i + 0.25) / 4 for i in range(4))


@dataclass
class Capture:
    """One window of text, seen by every layer.

    queries: `[layers, rows, heads * head_dim]`, those of the positions `at [rows]`, as they met the keys;
    keys: `[layers, tokens, kv_heads * head_dim]`; attention: `[layers, kv_heads, rows, tokens]`, summed
    over the heads of a group.
    """

    at: Tensor
    queries: Tensor
    keys: Tensor
    attention: Tensor

    @property
    def seen(self) -> Tensor:
        """Which tokens a row may look at, bool `[rows, tokens]`."""
        return torch.arange(self.keys.shape[1]) <= self.at[:, None]


def capture(lm: Decoder, ids: Tensor, rows: Tensor) -> Capture:
    """Run `lm` over `ids [tokens]` and keep what its layers do at the positions `rows`."""
    with torch.no_grad(), record(lm) as seen:
        lm(ids.unsqueeze(0), last_only=True)
    layers = range(lm.config.num_hidden_layers)
    kv_heads = lm.config.num_key_value_heads
    maps = [seen.attention[i][0, :, rows].unflatten(0, (kv_heads, -1)).sum(dim=1) for i in layers]
    return Capture(
        rows,
        torch.stack([seen.queries[i][0, :, rows].transpose(0, 1).flatten(1) for i in layers]),
        torch.stack([seen.keys[i][0].transpose(0, 1).flatten(1) for i in layers]),
        torch.stack(maps),
    )


def training_windows(lm: Decoder, tokens: int = 1024) -> Iterator[Tensor]:
    """The windows that indexers are trained on, each `[tokens]`."""
    return _windows(lm, TRAINING, tokens)


def held_out_windows(lm: Decoder, tokens: int = 1024) -> Iterator[Tensor]:
    """Windows that they never see, each `[tokens]`."""
    return _windows(lm, HELD_OUT, tokens)


def _windows(lm: Decoder, shares: tuple[float, ...], tokens: int) -> Iterator[Tensor]:
    from kvlab.measure.quality_texts import corpus

    text = torch.tensor(lm.tokenizer.encode(corpus()), device=lm.device)
    for share in shares:
        start = int(share * len(text))
        yield text[start : start + tokens]
