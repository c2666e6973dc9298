"""Shapes of known models, each with its source, and the tensors that a shape is made of."""

from __future__ import annotations

import math

from kvlab.model.config import Config, RopeScaling, TranslatorConfig

BYTE_VOCAB = 259  # 256 bytes, then <bos>, <eos>, <pad>: see ByteTokenizer

SHAPES: dict[str, Config] = {
    config.name: config
    for config in (
        Config(
            name="smollm2-135m", vocab_size=49152, hidden_size=576, intermediate_size=1536,
            num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
            rms_norm_eps=1e-5, max_position_embeddings=8192, rope_theta=1e5,
            bos_token_id=1, eos_token_ids=(2,), pad_token_id=2,
            source="config.json of HuggingFaceTB/SmolLM2-135M-Instruct; header of the GGUF file",
        ),
        Config(
            name="gemma3-270m", vocab_size=262144, hidden_size=640, intermediate_size=2048,
            num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
            rms_norm_eps=1e-6, max_position_embeddings=32768, activation="gelu_tanh",
            rope_theta=1e6, rope_local_theta=1e4, query_scale=256**-0.5, sliding_window=512,
            layer_types=(("sliding",) * 5 + ("full",)) * 3,
            qk_norm=True, sandwich_norms=True, norm_plus_one=True, embed_scale=640**0.5,
            bos_token_id=2, eos_token_ids=(1,), pad_token_id=0,
            source="config.json of google/gemma-3-270m; header of the GGUF file",
        ),
        Config(
            name="llama2-7b", vocab_size=32000, hidden_size=4096, intermediate_size=11008,
            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, head_dim=128,
            max_position_embeddings=4096, tie_word_embeddings=False,
            bos_token_id=1, eos_token_ids=(2,),
            source="config.json of meta-llama/Llama-2-7b-hf; Touvron et al. 2023, arXiv:2307.09288",
        ),
        Config(
            name="llama3-8b", vocab_size=128256, hidden_size=4096, intermediate_size=14336,
            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
            max_position_embeddings=8192, tie_word_embeddings=False, rope_theta=5e5,
            bos_token_id=128000, eos_token_ids=(128001,),
            source="config.json of meta-llama/Meta-Llama-3-8B; Dubey et al. 2024, arXiv:2407.21783, table 3",
        ),
        Config(
            name="llama3-70b", vocab_size=128256, hidden_size=8192, intermediate_size=28672,
            num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, head_dim=128,
            max_position_embeddings=8192, tie_word_embeddings=False, rope_theta=5e5,
            bos_token_id=128000, eos_token_ids=(128001,),
            source="config.json of meta-llama/Meta-Llama-3-70B; Dubey et al. 2024, arXiv:2407.21783, table 3",
        ),
        Config(
            name="mistral-7b", vocab_size=32000, hidden_size=4096, intermediate_size=14336,
            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
            max_position_embeddings=32768, tie_word_embeddings=False,
            layer_types=("sliding",) * 32, sliding_window=4096,
            bos_token_id=1, eos_token_ids=(2,),
            source="config.json of mistralai/Mistral-7B-v0.1; Jiang et al. 2023, arXiv:2310.06825, table 1",
        ),
        Config(
            name="gemma-2b", vocab_size=256000, hidden_size=2048, intermediate_size=16384,
            num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1, head_dim=256,
            rms_norm_eps=1e-6, max_position_embeddings=8192, activation="gelu_tanh",
            norm_plus_one=True, embed_scale=2048**0.5,
            bos_token_id=2, eos_token_ids=(1,), pad_token_id=0,
            source="config.json of google/gemma-2b; Gemma Team 2024, arXiv:2403.08295, table 1",
        ),
        Config(
            name="qwen3-8b", vocab_size=151936, hidden_size=4096, intermediate_size=12288,
            num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
            rms_norm_eps=1e-6, max_position_embeddings=40960, tie_word_embeddings=False, rope_theta=1e6,
            qk_norm=True, bos_token_id=151643, eos_token_ids=(151645,), pad_token_id=151643,
            source="config.json of Qwen/Qwen3-8B; Yang et al. 2025, arXiv:2505.09388, table 1",
        ),
        Config(
            name="gemma3-27b", vocab_size=262208, hidden_size=5376, intermediate_size=21504,
            num_hidden_layers=62, num_attention_heads=32, num_key_value_heads=16, head_dim=128,
            rms_norm_eps=1e-6, max_position_embeddings=131072, activation="gelu_tanh",
            rope_theta=1e6, rope_local_theta=1e4, rope_scaling=RopeScaling("linear", 8.0),
            query_scale=168**-0.5, sliding_window=1024,
            layer_types=((("sliding",) * 5 + ("full",)) * 11)[:62],
            qk_norm=True, sandwich_norms=True, norm_plus_one=True, embed_scale=5376**0.5,
            bos_token_id=2, eos_token_ids=(1, 106), pad_token_id=0,
            source="text_config of google/gemma-3-27b-it; Gemma Team 2025, arXiv:2503.19786, table 1",
        ),
        Config(
            name="tiny", vocab_size=BYTE_VOCAB, hidden_size=64, intermediate_size=192,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=2048, bos_token_id=256, eos_token_ids=(257,), pad_token_id=258,
            source="made up here: a Llama small enough to load at once",
        ),
        Config(
            name="tiny-gemma3", vocab_size=BYTE_VOCAB, hidden_size=64, intermediate_size=128,
            num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
            rms_norm_eps=1e-6, max_position_embeddings=2048, activation="gelu_tanh",
            rope_theta=1e6, rope_local_theta=1e4, query_scale=32**-0.5, sliding_window=8,
            layer_types=("sliding", "sliding", "full") * 2,
            qk_norm=True, sandwich_norms=True, norm_plus_one=True, embed_scale=64**0.5,
            bos_token_id=256, eos_token_ids=(257,), pad_token_id=258,
            source="made up here: Gemma 3's features in six small layers, window 8",
        ),
    )
}  # fmt: skip


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a decoder, in the order of the layers.

    Names are Hugging Face's without the leading "model."; a linear layer's weight is
    [out_features, in_features]. Tied embeddings have no `lm_head.weight`.
    """
    hidden, ffn, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer: dict[str, tuple[int, ...]] = {"input_layernorm": (hidden,)}
    layer |= {"self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden)}
    layer |= {"self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries)}
    if config.qk_norm:
        layer |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)}
    layer |= {"post_attention_layernorm": (hidden,)}
    if config.sandwich_norms:
        layer |= {"pre_feedforward_layernorm": (hidden,), "post_feedforward_layernorm": (hidden,)}
    layer |= {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn)}

    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        shapes |= {f"layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (hidden,)
    if isinstance(config, TranslatorConfig):
        own = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
        across = {name.replace("self", "cross"): layer[name] for name in own} | {"cross_layernorm": (hidden,)}
        for index in range(config.num_hidden_layers):
            shapes |= {f"layers.{index}.{name}.weight": shape for name, shape in across.items()}
        for index in range(config.encoder_layers):
            shapes |= {f"encoder.{index}.{name}.weight": shape for name, shape in layer.items()}
        shapes["encoder_norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def count_weights(config: Config) -> int:
    """Numbers in all tensors of a decoder."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())
