"""Exact counts of floating-point operations: what one forward call and one generation compute.

A multiplication and the addition that follows it count as 2 FLOPs, so a matrix product `[m, k] @ [k, n]`
counts 2·m·k·n. Counted are the matrix products: projections, attention scores and mix, MLP, output head.
Norms, rotary turns, softmax, activations and the embedding look-up are left out: together they are well
under one percent of a real model's work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kvlab.model.config import Config

Pairs = Literal["visible", "computed"]


@dataclass(frozen=True)
class Flops:
    """FLOPs of a piece of work, by what they are spent on."""

    projections: int = 0  # q, k, v and output projections
    scores: int = 0  # q·k
    mix: int = 0  # probabilities times values
    mlp: int = 0
    head: int = 0  # hidden state to logits

    @property
    def attention(self) -> int:
        """Scores and mix: the part that grows with the context."""
        return self.scores + self.mix

    @property
    def total(self) -> int:
        """All of it."""
        return self.projections + self.scores + self.mix + self.mlp + self.head

    def __add__(self, other: Flops) -> Flops:
        names = [field.name for field in dataclasses.fields(self)]
        return Flops(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def times(self, n: int) -> Flops:
        """The same work `n` times."""
        return Flops(**{name: n * value for name, value in dataclasses.asdict(self).items()})


def forward_flops(
    config: Config,
    new: int,
    past: int = 0,
    logits: int | None = None,
    batch: int = 1,
    pairs: Pairs = "visible",
) -> Flops:
    """One forward call that brings `new` tokens after `past` cached ones.

    Args:
        config: the model's shape.
        new: tokens computed in this call, of each sequence.
        past: tokens whose keys and values are cached.
        logits: positions that the output head computes; None: all new ones.
        batch: sequences.
        pairs: which pairs of a query and a key count. "visible": those that the causal mask and the
            layer's window allow, which is what the mathematics needs. "computed": all of them, as an
            implementation computes that multiplies whole matrices and masks afterwards.

    Raises:
        ValueError: no new token, or a negative count.
    """
    logits = new if logits is None else logits
    if new < 1 or past < 0 or batch < 1 or not 0 <= logits <= new:
        raise ValueError(
            f"need new >= 1, past >= 0, batch >= 1 and logits from 0 to new, not new={new}, past={past}, "
            f"batch={batch}, logits={logits}."
        )
    c = config
    queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    per_token = 2 * c.hidden_size * (queries + 2 * keys) + 2 * queries * c.hidden_size
    counted = sum(
        visible_pairs(new, past, c.window(layer)) if pairs == "visible" else new * (past + new)
        for layer in range(c.num_hidden_layers)
    )
    one = Flops(
        projections=c.num_hidden_layers * new * per_token,
        scores=2 * queries * counted,
        mix=2 * queries * counted,
        mlp=c.num_hidden_layers * new * 3 * 2 * c.hidden_size * c.intermediate_size,
        head=logits * 2 * c.hidden_size * c.vocab_size,
    )
    return one.times(batch)


def visible_pairs(new: int, past: int = 0, window: int | None = None) -> int:
    """Pairs of a new query and a key it may look at: itself and all before it, within the window."""
    if window is None:
        return new * past + new * (new + 1) // 2
    growing = max(0, min(new, window - past))  # queries that still see everything
    return visible_pairs(growing, past) + (new - growing) * window


def decode_flops(config: Config, context: int, batch: int = 1) -> Flops:
    """One cached step after which `context` tokens have been seen, the step's own included."""
    return forward_flops(config, new=1, past=context - 1, batch=batch)


def naive_flops(config: Config, context: int, batch: int = 1) -> Flops:
    """The same step without a cache: all `context` tokens are computed again, for one row of logits."""
    return forward_flops(config, new=context, logits=1, batch=batch)


def generation_flops(config: Config, prompt: int, new: int, cached: bool, batch: int = 1) -> Flops:
    """Generating `new` tokens after a prompt of `prompt` tokens.

    The prompt's forward call gives the first token, so `new - 1` steps follow. Without a cache every one
    of them computes prompt and text again; every call computes the logits of its last position only.
    """
    first = naive_flops(config, prompt, batch)
    contexts = range(prompt + 1, prompt + new)
    step = decode_flops if cached else naive_flops
    return total_flops(step(config, context, batch) for context in contexts) + first


def total_flops(parts: Iterable[Flops]) -> Flops:
    """The sum of several counts."""
    return sum(parts, start=Flops())
