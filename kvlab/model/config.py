"""What a decoder is made of: one flat, frozen description for every supported family."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

LayerType = Literal["full", "sliding"]


@dataclass(frozen=True)
class RopeScaling:
    """How a checkpoint stretches its rotary frequencies (transformers' `rope_scaling`)."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class Config:
    """The shape of a Llama- or Gemma-3-family decoder. Names follow transformers.

    Raises:
        ValueError: the numbers contradict each other (heads that do not divide,
            a sliding layer without a window, …).
    """

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    activation: Literal["silu", "gelu_tanh"] = "silu"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    layer_types: tuple[LayerType, ...] = ()  # empty: every layer is "full"
    sliding_window: int | None = None  # tokens a sliding layer sees, itself included
    rope_local_theta: float | None = None  # rotary base of the sliding layers, if it differs
    query_scale: float | None = None  # multiplies q·k; None: head_dim ** -0.5
    qk_norm: bool = False  # RMSNorm on each query and key head (Gemma 3)
    sandwich_norms: bool = False  # a second norm after attention and MLP (Gemma 3)
    norm_plus_one: bool = False  # RMSNorm multiplies by (1 + weight) (Gemma)
    embed_scale: float = 1.0  # multiplies the embeddings (Gemma: sqrt(hidden_size))
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    source: str = ""  # where these numbers come from

    def __post_init__(self) -> None:
        if not self.layer_types:
            object.__setattr__(self, "layer_types", ("full",) * self.num_hidden_layers)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.name}: {self.num_attention_heads} query heads cannot share "
                f"{self.num_key_value_heads} KV heads evenly; make the first a multiple of the second."
            )
        if self.head_dim % 2:
            raise ValueError(f"{self.name}: head_dim {self.head_dim} is odd; rotary embeddings rotate pairs.")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"{self.name}: {len(self.layer_types)} layer types for {self.num_hidden_layers} layers."
            )
        if "sliding" in self.layer_types and (self.sliding_window is None or self.sliding_window < 1):
            raise ValueError(f"{self.name}: sliding layers need a sliding_window of 1 or more.")

    @property
    def groups(self) -> int:
        """Query heads that share one KV head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def scale(self) -> float:
        """Factor on the scores q·k."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale

    def window(self, layer: int) -> int | None:
        """Tokens that `layer` sees, the query's own included; None: all of them."""
        return self.sliding_window if self.layer_types[layer] == "sliding" else None

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class TranslatorConfig(Config):
    """The shape of an encoder–decoder: a decoder's, and how many layers of the same sizes encode."""

    encoder_layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder_layers < 1:
            raise ValueError(f"{self.name}: an encoder needs a layer or more.")
        if "sliding" in self.layer_types or self.sandwich_norms:
            raise ValueError(f"{self.name}: a translator has full layers only, and no sandwich norms.")
