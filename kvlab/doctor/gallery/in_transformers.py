"""The misuses on transformers, which are all its caller's: `forward` never slices what it is given.

Pass new tokens only. Positions and the causal mask are worked out from the length of the cache, unless
`position_ids` or `attention_mask` say otherwise. Tried on transformers 5.23.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.elsewhere import Way
from kvlab.measure.peers import transformers_twin

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

SINKS, RECENT = 4, 8


def twin(lm: Decoder) -> Any:
    """transformers' model on the weights of one of ours; no token ends its text."""
    model = transformers_twin(lm)
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = None
    return model


def tiny() -> Any:
    """The course's small random Llama."""
    import kvlab

    return twin(kvlab.load("tiny", device="cpu"))


def random(name: str, **changes: Any) -> Any:
    """A small random model of another architecture: `name` is that of its config class."""
    import transformers

    config = getattr(transformers, name)(vocab_size=256, initializer_range=0.2, **changes)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def learned() -> Any:
    """GPT-2: learned absolute positions."""
    return random(
        "GPT2Config", n_embd=64, n_layer=4, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    )


def sliding(window: int = 64) -> Any:
    """Mistral: a window in every layer."""
    return random(
        "MistralConfig", hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=window,
    )  # fmt: skip


def dropping() -> Any:
    """A Llama with dropout on its attention weights."""
    model = tiny()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    return model


def empty(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def each_step(call: Callable[..., Any]) -> Way:
    """A loop around `call(model, cache, text [1, so far], new)`, which runs the model for the last `new`."""

    @functools.wraps(call)
    def loop(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
        cache = empty(model)
        logits = [call(model, cache, ids, ids.shape[1]).logits[:, -1]]
        for token in new[:-1]:
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            logits.append(call(model, cache, ids, 1).logits[:, -1])
        return torch.cat(logits)

    return loop


@each_step
def new_only(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    return model(text[:, -new:], past_key_values=cache)


@each_step
def whole(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    return model(text, past_key_values=cache)


@each_step
def restart(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    return model(text[:, -new:], past_key_values=cache, position_ids=torch.arange(new)[None])


@each_step
def one_off(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    start = cache.get_seq_length() + 1 if cache.get_seq_length() else 0
    return model(text[:, -new:], past_key_values=cache, position_ids=start + torch.arange(new)[None])


@each_step
def mask_of_new(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    mask = torch.ones(1, new, dtype=torch.int64)
    return model(text[:, -new:], past_key_values=cache, attention_mask=mask)


@each_step
def mask_of_all(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    mask = torch.ones(1, text.shape[1], dtype=torch.int64)
    return model(text[:, -new:], past_key_values=cache, attention_mask=mask)


@each_step
def evicted_by_length(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    evict(cache)
    return model(text[:, -new:], past_key_values=cache)


@each_step
def evicted_by_count(model: Any, cache: Any, text: Tensor, new: int) -> Any:
    evict(cache)
    positions = torch.arange(text.shape[1])[None, -new:]
    return model(text[:, -new:], past_key_values=cache, position_ids=positions)


def evict(cache: Any) -> None:
    """Keep the first entries and the last, and leave room for one."""
    for layer in cache.layers:
        if cache.get_seq_length() and layer.keys.shape[2] >= SINKS + RECENT:
            layer.keys, layer.values = (
                torch.cat([x[:, :, :SINKS], x[:, :, 1 - RECENT :]], dim=2) for x in (layer.keys, layer.values)
            )


def left_training(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    model.train()
    try:
        return new_only(model, ids, new)
    finally:
        model.eval()


def with_gradients(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    with torch.enable_grad():
        return new_only(model, ids, new)


def in_bfloat16(model: Any, ids: Tensor, new: Sequence[int]) -> Tensor:
    return new_only(copy.deepcopy(model).to(torch.bfloat16), ids, new)
