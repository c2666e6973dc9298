"""As much of a model as its memory depends on: of each shape that kvlab runs, and of one that it does not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kvlab.measure.bytes import weights_read
from kvlab.model.config import Config, TranslatorConfig
from kvlab.zoo.shapes import SHAPES, count_weights, weight_shapes

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@dataclass(frozen=True)
class CachedLayer:
    """What one token leaves in one layer's cache."""

    numbers: int  # keys and values together, of one token
    window: int | None = None  # tokens that the layer sees, the query's own included; None: all


@dataclass(frozen=True)
class Outline:
    """A model, as far as its memory depends on it. Counts are numbers, not bytes."""

    name: str
    attention: str  # MHA, GQA, MQA or MLA
    layers: tuple[CachedLayer, ...]
    parameters: int
    read: Callable[[int], int]  # batch -> parameters that one decode step reads
    rotary: int  # frequencies that all layers keep, float32
    longest: int  # tokens that the model was made for
    source: str
    cross: int = 0  # numbers that a token of the source leaves in a cross cache, all layers

    @property
    def numbers(self) -> int:
        """Numbers that a token leaves in the cache, all layers."""
        return sum(layer.numbers for layer in self.layers)

    @property
    def slides(self) -> int:
        """Layers that see a window only."""
        return sum(layer.window is not None for layer in self.layers)


def outline(model: str | Config | Decoder | Outline) -> Outline:
    """The outline of a preset, a shape, a loaded model, or itself.

    Raises:
        ValueError: no preset has this name.
    """
    if isinstance(model, Outline):
        return model
    if isinstance(model, str):
        if model in OTHERS:
            return OTHERS[model]
        if model not in SHAPES:
            raise ValueError(f"there is no preset {model!r}; choose one of {', '.join(presets())}.")
        return _of_config(SHAPES[model])
    return _of_config(model if isinstance(model, Config) else model.config)


def presets() -> tuple[str, ...]:
    """Names that `plan` takes."""
    return (*SHAPES, *OTHERS)


@lru_cache(maxsize=64)
def _of_config(config: Config) -> Outline:
    entry = 2 * config.num_key_value_heads * config.head_dim
    layers = range(config.num_hidden_layers)
    encoder_layers = config.encoder_layers if isinstance(config, TranslatorConfig) else 0
    once = _read_once(config)
    return Outline(
        name=config.name,
        attention=_attention(config),
        layers=tuple(CachedLayer(entry, config.window(layer)) for layer in layers),
        parameters=count_weights(config),
        read=lambda batch: weights_read(config, 1, batch) - once,
        rotary=(config.num_hidden_layers + encoder_layers) * config.head_dim // 2,
        longest=config.max_position_embeddings,
        source=config.source,
        cross=entry * config.num_hidden_layers if encoder_layers else 0,
    )


def _read_once(config: Config) -> int:
    """Weights that are done with a source once it is cached: the encoder, and the cross keys and values."""
    once = re.compile(r"encoder|.*cross_attn\.[kv]_proj")
    return sum(math.prod(shape) for name, shape in weight_shapes(config).items() if once.match(name))


def _attention(config: Config) -> str:
    if config.groups == 1:
        return "MHA"
    return "MQA" if config.num_key_value_heads == 1 else "GQA"


def _deepseek_v3() -> Outline:
    """DeepSeek-V3: one latent of 512 numbers and one rotary key of 64 a layer, shared by 128 heads.

    Counted without the extra layer that predicts a second token. 58 of 61 layers choose 8 of 256 experts
    for each token, so a step reads more of them the more sequences there are; counted as if no two
    sequences chose the same expert, which is the most that it can be.
    """
    hidden, heads, nope, rope, value, vocab = 7168, 128, 128, 64, 128, 129280
    latent, query_rank, layers, dense, experts, chosen = 512, 1536, 61, 3, 256, 8
    attention = hidden * query_rank + query_rank + query_rank * heads * (nope + rope)
    attention += hidden * (latent + rope) + latent + latent * heads * (nope + value)
    attention += heads * value * hidden + 2 * hidden  # output projection, two norms
    expert = 3 * hidden * 2048
    routed = layers - dense  # layers with experts, each with a shared one and a router with a bias
    rest = layers * attention + dense * 3 * hidden * 18432 + routed * (expert + experts * (hidden + 1))
    rest += hidden + vocab * hidden  # last norm, output head

    def read(batch: int) -> int:
        return rest + batch * hidden + routed * min(experts, chosen * batch) * expert

    return Outline(
        name="deepseek-v3",
        attention="MLA",
        layers=(CachedLayer(latent + rope),) * layers,
        parameters=rest + vocab * hidden + routed * experts * expert,
        read=read,
        rotary=layers * rope // 2,
        longest=163840,
        source="config.json of deepseek-ai/DeepSeek-V3; DeepSeek-AI 2024, arXiv:2412.19437, section 4.2",
    )


def _whisper_large_v3() -> Outline:
    """Whisper large-v3, speech to text: 30 seconds of sound are 1,500 frames of the encoder.

    Its keys have no bias; queries, values and outputs have. Positions are learned, not rotary.
    """
    hidden, layers, vocab, frames, longest, mels = 1280, 32, 51866, 1500, 448, 128
    attention = 4 * hidden * hidden + 3 * hidden
    feed_forward = 2 * hidden * 4 * hidden + 5 * hidden
    norm = 2 * hidden
    encoder = layers * (attention + feed_forward + 2 * norm) + norm + frames * hidden
    encoder += 3 * mels * hidden + 3 * hidden * hidden + 2 * hidden  # two convolutions of width 3
    decoder = layers * (2 * attention + feed_forward + 3 * norm) + norm + (vocab + longest) * hidden
    cross_once = layers * (2 * hidden * hidden + hidden)  # keys and values of the source
    return Outline(
        name="whisper-large-v3",
        attention="MHA",
        layers=(CachedLayer(2 * hidden),) * layers,
        parameters=encoder + decoder,
        read=lambda batch: decoder - cross_once - longest * hidden + 2 * batch * hidden,
        rotary=0,
        longest=longest,
        source="config.json of openai/whisper-large-v3; Radford et al. 2022, arXiv:2212.04356, table 1",
        cross=layers * 2 * hidden,
    )


OTHERS: dict[str, Outline] = {one.name: one for one in (_deepseek_v3(), _whisper_large_v3())}
