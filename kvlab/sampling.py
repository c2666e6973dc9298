"""From logits to the next token: temperature, then top-k, then top-p, then min-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The `k` highest logits of each row stay, ties included; `[batch, vocab]` (Fan et al., 2018)."""
    if k >= logits.shape[-1]:
        return logits
    kth = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest tokens whose probabilities reach `p` stay (nucleus sampling, Holtzman et al., 2019)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the better tokens have already reached
    drop = (before >= p).scatter(-1, order, before >= p)
    drop.scatter_(-1, order[..., :1], False)  # the best token always stays
    return logits.masked_fill(drop, float("-inf"))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Tokens with at least `p` times the best one's probability stay (Nguyen et al., 2024)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), float("-inf"))


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    temperature: 0 takes the likeliest token (greedy); otherwise logits are divided by it first.
    top_k, top_p, min_p: filters, applied in this order; None: off.

    Raises:
        ValueError: a setting outside its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (greedy) or a positive number, not {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}; None turns it off.")
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {value}; None turns it off.")

    def filter(self, logits: Tensor) -> Tensor:
        """Logits `[batch, vocab]` after temperature and filters; -inf where a token cannot come."""
        logits = logits.float()
        if self.temperature > 0:
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = keep_min_p(logits, self.min_p)
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution that a token is drawn from, `[batch, vocab]`; greedy puts all on one token."""
        if self.temperature == 0:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)
        return self.filter(logits).softmax(dim=-1)

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One token id per row of logits `[batch, vocab]`: `[batch]` int64."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator).squeeze(-1)
