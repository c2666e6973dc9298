"""Lesson 04: the model of the lesson, moved weight by weight into transformers and into x-transformers.

The same numbers in two libraries: what differs between them is what each wants to be passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kvlab.measure.peers import transformers_twin

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

Positions = Literal["rotary", "learned", "T5 bias", "none"]


def in_transformers(lm: Decoder) -> Any:
    """A `LlamaForCausalLM` on the weights of `lm`, of the Llama family; same device, same dtype."""
    with quiet():
        return transformers_twin(lm)


def in_x_transformers(lm: Decoder, positions: Positions = "rotary", **layers: float) -> Any:
    """A `TransformerWrapper` on the weights of `lm`, a model of the Llama family with tied embeddings.

    positions: anything but "rotary" takes the rotary angles away and puts seeded random weights, or nothing,
    in their place: the text means nothing then, but cached and whole computing can still be compared.
    layers: more arguments of x-transformers' `Decoder`, say `attn_dropout=0.1`.
    """
    from x_transformers import Decoder as Layers
    from x_transformers import TransformerWrapper

    c = lm.config
    kinds: dict[str, dict[str, Any]] = {
        "rotary": {"rotary_pos_emb": True, "rotary_emb_dim": c.head_dim},
        "T5 bias": {"rel_pos_bias": True},
    }
    with quiet():
        decoder = Layers(
            dim=c.hidden_size,
            depth=c.num_hidden_layers,
            heads=c.num_attention_heads,
            attn_kv_heads=c.num_key_value_heads,
            attn_dim_head=c.head_dim,
            use_rmsnorm=True,
            norm_add_unit_offset=False,  # Llama multiplies by the weight, not by one more
            ff_glu=True,
            ff_swish=True,
            ff_mult=c.intermediate_size / c.hidden_size,
            **kinds.get(positions, {}),
            **layers,
        )
    model = TransformerWrapper(
        num_tokens=c.vocab_size,
        max_seq_len=c.max_position_embeddings,
        attn_layers=decoder,
        use_abs_pos_emb=positions == "learned",
        tie_embedding=True,
        tie_embedding_scale=1.0,
    )
    state = _renamed(lm)
    if positions != "rotary":
        del state["attn_layers.rotary_pos_emb.inv_freq"]
    model.load_state_dict({**_seeded(model), **state}, assign=True)
    return model.eval().requires_grad_(False).to(lm.device)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of transformers, and no advice of x-transformers on how to train."""
    from loguru import logger
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logger.disable("x_transformers")
    try:
        yield
    finally:
        logger.enable("x_transformers")
        if shown:
            logging.enable_progress_bar()


def _seeded(model: nn.Module) -> dict[str, Tensor]:
    """Weights of positions that `lm` does not have: normal, from a fixed seed, as large as one embedding."""
    draw = torch.Generator().manual_seed(0)
    extra = {"pos_emb.emb.weight", "attn_layers.rel_pos.relative_attention_bias.weight"}
    state = model.state_dict()
    return {n: torch.randn(state[n].shape, generator=draw) for n in sorted(extra & state.keys())}


def _renamed(lm: Decoder) -> dict[str, Tensor]:
    """The weights of `lm` under x-transformers' names, its rotary pairs and heads in that library's order."""
    blocks: list[Any] = list(lm.layers)
    state: dict[str, Tensor] = {
        "token_emb.emb.weight": lm.embed_tokens.weight,
        "attn_layers.final_norm.g": lm.norm.weight,
        "attn_layers.rotary_pos_emb.inv_freq": blocks[0].self_attn.frequencies,
    }
    for i, block in enumerate(blocks):
        a, f, attention, mlp = f"{2 * i}.", f"{2 * i + 1}.", block.self_attn, block.mlp
        up_gate = torch.cat([mlp.up_proj.weight, mlp.gate_proj.weight])
        layer = {
            f"{a}0.0.g": block.input_layernorm.weight,
            f"{a}1.to_q.weight": _by_kv_head(_neighbours(attention.q_proj.weight, lm.config), lm.config),
            f"{a}1.to_k.weight": _neighbours(attention.k_proj.weight, lm.config),
            f"{a}1.to_v.weight": attention.v_proj.weight,
            f"{a}1.to_out.weight": _by_kv_head(attention.o_proj.weight.t(), lm.config).t(),
            f"{f}0.0.g": block.post_attention_layernorm.weight,
            f"{f}1.ff.0.proj.weight": up_gate,
            f"{f}1.ff.0.proj.bias": torch.zeros_like(up_gate[:, 0]),
            f"{f}1.ff.2.weight": mlp.down_proj.weight,
            f"{f}1.ff.2.bias": torch.zeros_like(mlp.down_proj.weight[:, 0]),
        }
        state |= {f"attn_layers.layers.{name}": weight.contiguous() for name, weight in layer.items()}
    return state


def _neighbours(weight: Tensor, config: Config) -> Tensor:
    """Rows `[heads * head_dim, …]`: a rotary pair lies d / 2 apart in Llama, side by side here."""
    halves = weight.view(-1, 2, config.head_dim // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def _by_kv_head(weight: Tensor, config: Config) -> Tensor:
    """Rows `[heads * head_dim, …]`: head i reads KV head i // group in Llama, i % kv_heads here."""
    groups = weight.reshape(config.num_key_value_heads, config.groups, config.head_dim, -1)
    return groups.transpose(0, 1).reshape(weight.shape)
