"""Training the translator: teacher forcing, AdamW, one warm-up and one cosine, everything seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.model.config import TranslatorConfig
from kvlab.model.translator import Translator
from kvlab.translation.decode import translated
from kvlab.translation.numbers import spelled, split
from kvlab.translation.pairs import IGNORED, draw
from kvlab.translation.words import Words


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, on one machine with one number of threads.

    Raises:
        ValueError: no steps, or an empty batch.
    """

    languages: tuple[str, ...] = ("en", "fr", "de")
    seed: int = 0
    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3
    warm_up: int = 200  # steps

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.warm_up < 1:
            raise ValueError("steps, batch and warm_up must be 1 or more.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: up in a line, down in a half cosine."""
        progress = step / self.steps
        return self.learning_rate * min((step + 1) / self.warm_up, 0.5 + 0.5 * math.cos(math.pi * progress))


def config(words: Words) -> TranslatorConfig:
    """The shape of the shipped model, 0.9 M parameters."""
    return TranslatorConfig(
        name="translator", vocab_size=len(words), hidden_size=128, intermediate_size=320,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=32, encoder_layers=2,
        max_position_embeddings=64, eos_token_ids=(words.end,), source="kvlab train-translation",
    )  # fmt: skip


def untrained(shape: TranslatorConfig, words: Words | None, seed: int = 0, **how: Any) -> Translator:
    """A translator with random weights: each matrix so wide that it keeps the size of what it multiplies."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in Translator(shape).named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, size in shapes.items():
        width = size[-1] ** -0.5
        weights[name] = torch.ones(size) if len(size) == 1 else torch.randn(size, generator=generator) * width
    return Translator.from_weights(shape, weights, words, **how)


def trainable(lm: Translator) -> list[Tensor]:
    """The tensors to optimize. Fused matrices are leaves themselves, and their parts are views of them."""
    whole = [t for block in lm.blocks() for t in (block.self_attn.qkv, block.mlp.gate_up)]
    parts = {t.untyped_storage().data_ptr() for t in whole}
    single = [p for p in lm.parameters() if p.untyped_storage().data_ptr() not in parts]
    return [t.requires_grad_() for t in (*whole, *single)]


def train(lm: Translator, recipe: Recipe) -> Iterator[float]:
    """Train `lm` in place; yields the loss of every step, in nats a word."""
    rng = random.Random(recipe.seed)
    tensors = trainable(lm)
    optimizer = torch.optim.AdamW(tensors, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        lost = loss(lm, rng, recipe.batch)
        optimizer.zero_grad()
        lost.backward()
        torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        optimizer.step()
        yield lost.item()
    for tensor in tensors:
        tensor.requires_grad_(False).grad = None


def loss(lm: Translator, rng: random.Random, size: int) -> Tensor:
    """Cross-entropy of a fresh batch, every word predicted from the true words before it."""
    pairs = draw(lm.tokenizer, rng, size)
    logits = lm(pairs.given, source=lm.encode(pairs.source, pairs.mask))
    return F.cross_entropy(logits.flatten(0, 1), pairs.wanted.flatten(), ignore_index=IGNORED)


def exact_match(lm: Translator, of: str, to: str, numbers: list[int], batch: int = 250) -> float:
    """The share of `numbers` whose whole translation is right, letter by letter."""
    right = 0
    for start in range(0, len(numbers), batch):
        some = numbers[start : start + batch]
        out = translated(lm, [spelled(n, of) for n in some], to)
        right += sum(said == spelled(n, to) for said, n in zip(out, some, strict=True))
    return right / len(numbers)


def held_out_sample(count: int = 1000, seed: int = 0) -> list[int]:
    """Numbers that training never sees; the first of a longer sample are those of a shorter one."""
    never_seen = list(split()[1])
    random.Random(seed).shuffle(never_seen)
    return never_seen[:count]
