"""`config.json` of a Hugging Face checkpoint → `Config`, or a refusal that says why."""

from __future__ import annotations

from typing import Any, Literal

from kvlab.model.config import Config, LayerType, RopeScaling
from kvlab.zoo.errors import ModelError

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Gemma3ForCausalLM")
_ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Settings that would change the result and that the decoder does not have, with the value that is fine.
_MUST_BE_OFF = (
    "attention_bias",
    "mlp_bias",
    "quantization_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
)


def config_from_json(data: dict[str, Any], name: str) -> Config:
    """The shape that a `config.json` describes.

    Raises:
        ModelError: another architecture, or a setting that kvlab's decoder does not have.
    """
    architecture = (data.get("architectures") or ["(none named)"])[0]
    if architecture not in SUPPORTED:
        raise ModelError(f"{name} is a {architecture}; kvlab's decoder runs {', '.join(SUPPORTED)}.")
    for setting in _MUST_BE_OFF:
        if data.get(setting):
            raise ModelError(
                f"{name} sets {setting}, which kvlab's decoder does not have; choose another checkpoint."
            )
    try:
        common = _common(data, name)
        return _gemma3(common, data) if architecture.startswith("Gemma3") else _llama(common, data, name)
    except KeyError as error:
        raise ModelError(f"config.json of {name} lacks {error.args[0]!r}; is the file complete?") from error
    except ValueError as error:
        raise ModelError(f"config.json of {name} contradicts itself: {error}") from error


def _common(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields that all families share."""
    activation = data.get("hidden_activation") or data.get("hidden_act") or "silu"
    if activation not in _ACTIVATIONS:
        raise ModelError(f"{name} uses the activation {activation!r}; kvlab has {', '.join(_ACTIVATIONS)}.")
    eos = data.get("eos_token_id")
    heads = data["num_attention_heads"]
    return {
        "name": name,
        "vocab_size": data["vocab_size"],
        "hidden_size": data["hidden_size"],
        "intermediate_size": data["intermediate_size"],
        "num_hidden_layers": data["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": data.get("num_key_value_heads") or heads,
        "head_dim": data.get("head_dim") or data["hidden_size"] // heads,
        "rms_norm_eps": data.get("rms_norm_eps", 1e-6),
        "max_position_embeddings": data.get("max_position_embeddings", 2048),
        "activation": _ACTIVATIONS[activation],
        "bos_token_id": data.get("bos_token_id"),
        "eos_token_ids": tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        "pad_token_id": data.get("pad_token_id"),
        "source": f"config.json of {name}",
    }


def _llama(common: dict[str, Any], data: dict[str, Any], name: str) -> Config:
    """Llama, and Mistral, whose layers may all slide."""
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    window = data.get("sliding_window") if data["architectures"][0].startswith("Mistral") else None
    layers: tuple[LayerType, ...] = () if window is None else ("sliding",) * common["num_hidden_layers"]
    return Config(
        **common,
        tie_word_embeddings=data.get("tie_word_embeddings", False),
        rope_theta=float(rope.get("rope_theta") or data.get("rope_theta") or 10_000.0),
        rope_scaling=_scaling(rope, name),
        layer_types=layers,
        sliding_window=window,
    )


def _gemma3(common: dict[str, Any], data: dict[str, Any]) -> Config:
    """Gemma 3's text model."""
    rope = data.get("rope_parameters") or {}
    full, sliding = rope.get("full_attention") or {}, rope.get("sliding_attention") or {}
    scaling = full or data.get("rope_scaling") or {}
    return Config(
        **common,
        tie_word_embeddings=data.get("tie_word_embeddings", True),
        rope_theta=float(full.get("rope_theta") or data.get("rope_theta") or 1e6),
        rope_local_theta=float(sliding.get("rope_theta") or data.get("rope_local_base_freq") or 1e4),
        rope_scaling=_scaling(scaling, common["name"]),
        layer_types=_gemma3_layers(data),
        sliding_window=data["sliding_window"],
        query_scale=data["query_pre_attn_scalar"] ** -0.5,
        qk_norm=True,
        sandwich_norms=True,
        norm_plus_one=True,
        embed_scale=common["hidden_size"] ** 0.5,
    )


def _gemma3_layers(data: dict[str, Any]) -> tuple[LayerType, ...]:
    """Which layers slide: listed, or (older files) all but every sixth."""
    if listed := data.get("layer_types"):
        return tuple("sliding" if kind == "sliding_attention" else "full" for kind in listed)
    pattern = data.get("sliding_window_pattern", 6)
    return tuple("sliding" if (layer + 1) % pattern else "full" for layer in range(data["num_hidden_layers"]))


def _scaling(rope: dict[str, Any], name: str) -> RopeScaling | None:
    """How rotary frequencies are stretched; the two ways that the decoder knows."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    raise ModelError(f"{name} scales its rotary positions by {kind!r}; kvlab has 'linear' and 'llama3'.")
