"""The same models in transformers, on the same weights: the oracle of the tests that carry its name.

That transformers reads the same numbers from the same file is tested with the zoo; building its models
from the converted weights saves the minutes that it takes to read them.
"""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import torch

from kvlab import zoo

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {  # as published in each model's config.json
    "smollm2-135m": (
        "LlamaConfig",
        {
            "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        },
    ),
    "gemma3-270m": (
        "Gemma3TextConfig",
        {
            "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 256, "sliding_window": 512, "max_position_embeddings": 32768,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
        },
    ),
}  # fmt: skip


def from_transformers(name: str) -> Any:
    """The model in transformers, float32, with SDPA as its default is."""
    import transformers
    from safetensors.torch import load_file

    family, numbers = CONFIGS[name]
    weights = load_file(zoo.fetch(name) / "model.safetensors")
    return on_weights(getattr(transformers, family)(**numbers), weights)


def on_weights(config: Any, weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Any:
    """A transformers model of `config` on weights that are named without the leading "model."."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    named = {name if name == "lm_head.weight" else f"model.{name}": w for name, w in weights.items()}
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return model.from_pretrained(None, config=config, state_dict=named, dtype=dtype).eval()


def english(characters: int) -> str:
    """Real English prose that every Python has."""
    return "\n\n".join(topics[name] for name in sorted(topics))[:characters]
