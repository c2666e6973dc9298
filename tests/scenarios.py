"""Random small models, and random things to do with a cache, for hypothesis to draw and to shrink.

An operation names a branch and sizes as plain numbers, taken modulo what there is when it runs: removing
one operation from a list leaves a valid list, so failures shrink to a few readable lines.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from reference import reference_logits

from kvlab.model import Config, Decoder, RopeScaling
from kvlab.zoo.shapes import weight_shapes

VOCAB = 19


@dataclass(frozen=True)
class Append:
    """Pass a chunk. padding[row]: how many tokens are padding, and whether on the left or scattered."""

    branch: int
    tokens: int
    padding: tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Interrupt:
    """Begin a step that raises in a layer, after attention there has settled or before it has begun."""

    branch: int
    tokens: int
    layer: int
    settled: bool


@dataclass(frozen=True)
class Fork:
    branch: int


@dataclass(frozen=True)
class Crop:
    branch: int
    to: int


@dataclass(frozen=True)
class Reorder:
    branch: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Reset:
    branch: int


@dataclass(frozen=True)
class Scenario:
    config: Config
    seed: int  # of weights and token ids
    batch: int
    capacity: int  # of stores that have one; what does not fit must be refused
    operations: tuple[Append | Interrupt | Fork | Crop | Reorder | Reset, ...]


@st.composite
def configs(draw) -> Config:
    layers = draw(st.integers(1, 3))
    kv_heads = draw(st.integers(1, 3))
    types = draw(st.lists(st.sampled_from(["full", "sliding"]), min_size=layers, max_size=layers))
    gemma = draw(st.booleans())
    scaling = [None, RopeScaling("linear", 4.0), RopeScaling("llama3", 4.0, 1.0, 3.0, 16)]
    return Config(
        name="drawn",
        vocab_size=VOCAB,
        hidden_size=draw(st.sampled_from([6, 8])),
        intermediate_size=10,
        num_hidden_layers=layers,
        num_attention_heads=kv_heads * draw(st.integers(1, 3)),
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 4, 8])),
        tie_word_embeddings=draw(st.booleans()),
        activation="gelu_tanh" if gemma else "silu",
        rope_theta=draw(st.sampled_from([100.0, 1e4])),
        rope_scaling=draw(st.sampled_from(scaling)),
        layer_types=tuple(types),
        sliding_window=draw(st.sampled_from([1, 2, 3, 5, 8, 100])) if "sliding" in types else None,
        rope_local_theta=draw(st.sampled_from([None, 10.0])),
        query_scale=draw(st.sampled_from([None, 0.9])),
        qk_norm=draw(st.booleans()),
        sandwich_norms=draw(st.booleans()),
        norm_plus_one=gemma,
        embed_scale=3.0 if gemma else 1.0,
    )


def operations(batch: int):
    branch = st.integers(0, 2)
    no_padding = st.just(((0, True),) * batch)
    a_row = st.tuples(st.integers(0, 6), st.booleans())
    padding = st.one_of(no_padding, st.tuples(*[a_row] * batch))
    chunk = st.builds(Append, branch, st.integers(1, 7), padding)
    step = st.builds(Append, branch, st.just(1), padding)
    rows = st.tuples(*[st.integers(0, batch - 1)] * batch)
    rare = (
        st.builds(Interrupt, branch, st.integers(1, 5), st.integers(0, 2), st.booleans()),
        st.builds(Fork, branch),
        st.builds(Crop, branch, st.integers(0, 30)),
        st.builds(Reorder, branch, rows),
        st.builds(Reset, branch),
    )
    return st.lists(st.one_of(chunk, step, step, chunk, *rare), min_size=1, max_size=12).map(tuple)


@st.composite
def scenarios(draw) -> Scenario:
    batch = draw(st.integers(1, 4))
    return Scenario(
        config=draw(configs()),
        seed=draw(st.integers(0, 99)),
        batch=batch,
        capacity=draw(st.sampled_from([40, 16, 10])),
        operations=draw(operations(batch)),
    )


def random_weights(config: Config, seed: int, spread: float = 1.0) -> dict[str, torch.Tensor]:
    """Float64 weights, wide enough that a wrong mask or angle moves the logits by tenths."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
        if "norm" in name:
            weights[name] = 0.2 * drawn + (0.0 if config.norm_plus_one else 1.0)
        else:
            weights[name] = drawn if "embed" in name else 1.5 * drawn / shape[-1] ** 0.5
    return weights


@functools.lru_cache(maxsize=4096)
def expected(config: Config, seed: int, text: tuple[int, ...]) -> np.ndarray:
    """Logits `[tokens, vocab]` of the plain decoder with these weights."""
    weights = {name: w.numpy() for name, w in random_weights(config, seed).items()}
    return reference_logits(config, weights, text)


def decoder(config: Config, seed: int) -> Decoder:
    return Decoder.from_weights(config, random_weights(config, seed), dtype=torch.float64)
