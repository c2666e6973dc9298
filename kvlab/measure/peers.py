"""transformers' own model on the very same weights: the peer that every speed is compared with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from kvlab.model.config import Config

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def transformers_twin(lm: Decoder) -> Any:
    """`lm` as transformers' `LlamaForCausalLM` or `Gemma3ForCausalLM`, SDPA attention.

    Weights are shared, not copied; only Gemma's norm weights are written again, as they are stored there.

    Raises:
        ImportError: transformers is not installed.
    """
    config = lm.config
    make = _gemma3 if config.norm_plus_one else _llama
    hf_config, model_class = make(config)
    hf_config._attn_implementation = "sdpa"
    with torch.device("meta"):
        twin = model_class(hf_config)
    weights = {f"model.{name}": p for name, p in lm.state_dict().items() if name != "lm_head.weight"}
    if config.norm_plus_one:
        weights = {name: p.float().sub(1).to(p.dtype) if "norm" in name else p for name, p in weights.items()}
    table = "embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    weights["lm_head.weight"] = lm.state_dict()[table]
    twin.load_state_dict(weights, assign=True, strict=True)
    _fill_buffers(twin, model_class, hf_config, lm.device)
    return twin.eval().requires_grad_(False)


def _fill_buffers(twin: Any, model_class: Any, hf_config: Any, device: torch.device) -> None:
    """Buffers that no checkpoint holds (rotary frequencies, Gemma's scale) from a real, tiny twin."""
    small = copy.deepcopy(hf_config)
    kinds = sorted(set(getattr(small, "layer_types", None) or ["full_attention"]))
    small.num_hidden_layers, small.vocab_size, small.intermediate_size = len(kinds), 8, 8
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    if getattr(small, "layer_types", None):
        small.layer_types = kinds
    source = dict(model_class(small).named_buffers())
    for name, buffer in twin.named_buffers():
        if buffer.device.type == "meta":
            parent, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(parent), leaf, source[name].to(device))


def _common(config: Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def _rope(theta: float, config: Config) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    return {
        "rope_type": scaling.kind,
        "rope_theta": theta,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }


def _llama(config: Config) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    rope = _rope(config.rope_theta, config)
    if "sliding" in config.layer_types:
        mistral = MistralConfig(**_common(config), sliding_window=config.sliding_window, rope_parameters=rope)
        return mistral, MistralForCausalLM
    return LlamaConfig(**_common(config), rope_parameters=rope), LlamaForCausalLM


def _gemma3(config: Config) -> tuple[Any, Any]:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    rope = {
        "full_attention": _rope(config.rope_theta, config),
        "sliding_attention": {"rope_type": "default", "rope_theta": config.rope_local_theta},
    }
    gemma = Gemma3TextConfig(
        **_common(config),
        sliding_window=config.sliding_window,
        layer_types=[f"{kind}_attention" for kind in config.layer_types],
        query_pre_attn_scalar=round(config.scale**-2),
        hidden_activation="gelu_pytorch_tanh",
        rope_parameters=rope,
    )
    return gemma, Gemma3ForCausalLM
