"""Lesson 02: the shapes of every tensor of a layer, and the stream that all layers add to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.measure.watch import watch
from kvlab.model import Decoder
from kvlab.record import record

from .tables import plain_table

# What runs in one layer, in order: a recorded tensor, or a module's input or output.
_LAYER = (
    ("output", "input_layernorm", "normed", "[batch, tokens, hidden]"),
    ("queries", "", "q: queries, rotated", "[batch, heads, tokens, head_dim]"),
    ("keys", "", "**k: keys, rotated**", "[batch, kv_heads, tokens, head_dim]"),
    ("values", "", "**v: values**", "[batch, kv_heads, tokens, head_dim]"),
    ("attention", "", "attention map", "[batch, heads, tokens, tokens]"),
    ("input", "self_attn.o_proj", "mixed values, all heads", "[batch, tokens, heads · head_dim]"),
    ("output", "self_attn.o_proj", "what attention adds", "[batch, tokens, hidden]"),
    ("output", "post_attention_layernorm", "normed again", "[batch, tokens, hidden]"),
    ("input", "mlp.down_proj", "inside the MLP", "[batch, tokens, intermediate]"),
    ("output", "mlp.down_proj", "what the MLP adds", "[batch, tokens, hidden]"),
)


@dataclass(frozen=True)
class Shapes:
    """Rows of (tensor, its shape in words, its shape in numbers)."""

    rows: tuple[tuple[str, str, str], ...]
    caption: str

    def __repr__(self) -> str:
        plain = [[cell.replace("*", "") for cell in row] for row in self.rows]
        return "\n".join([self.caption, *(f"{a:34}{b:40}{c}" for a, b, c in plain)])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        table = plain_table(self.rows, ("tensor", "shape", "here"), caption=self.caption)
        return {"text/html": table, "text/plain": repr(self)}


def shapes(lm: Decoder, ids: Tensor, layer: int = 0) -> Shapes:
    """The shapes of the tensors of a forward call on `ids [batch, tokens]`, read off the real tensors."""
    seen: dict[tuple[str, str], Tensor] = {}

    def keep(name: str, given: Tensor, out: Tensor) -> None:
        seen["input", name], seen["output", name] = given, out

    modules = {name: lm.layers[layer].get_submodule(name) for _, name, _, _ in _LAYER if name}
    with record(lm) as recorded, watch({**modules, "embed": lm.embed_tokens, "norm": lm.norm}, keep):
        logits = lm(ids)
    rows = [_row("ids", "[batch, tokens]", ids)]
    rows.append(_row("embeddings", "[batch, tokens, hidden]", seen["output", "embed"]))
    for kind, module, name, words in _LAYER:
        tensor = seen[kind, module] if module else getattr(recorded, kind)[layer]
        rows.append(_row(f"layer {layer}: {name}", words, tensor))
    rows.append((f"layers {layer + 1} to {len(lm.layers) - 1}", "the same shapes again", ""))
    rows.append(_row("normed once more", "[batch, tokens, hidden]", seen["output", "norm"]))
    rows.append(_row("logits", "[batch, tokens, vocab]", logits))
    return Shapes(tuple(rows), f"Tensors of {lm.config.name} on {ids.shape[1]} tokens, in the order computed")


def _row(name: str, words: str, tensor: Tensor) -> tuple[str, str, str]:
    return name, words, str(list(tensor.shape))


@dataclass(frozen=True)
class Stream:
    """What runs through the layers for one text; `x` has one entry more: what comes before layer 0."""

    x: Tensor  # [layers + 1, tokens, hidden]
    attention: Tensor  # [layers, tokens, hidden] what each layer's attention adds
    mlp: Tensor  # [layers, tokens, hidden] what its MLP adds


def stream(lm: Decoder, ids: Tensor) -> Stream:
    """The stream of `ids [1, tokens]`, read out of the running model."""
    kept: dict[str, list[Tensor]] = {"x": [], "attention": [], "mlp": []}
    modules: dict[str, torch.nn.Module] = {"x embed": lm.embed_tokens}
    for i, layer in enumerate(lm.layers):
        parts = {"attention": layer.get_submodule("self_attn"), "mlp": layer.get_submodule("mlp"), "x": layer}
        modules |= {f"{name} {i}": module for name, module in parts.items()}
    with watch(modules, lambda name, _given, out: kept[name.split()[0]].append(out[0])):
        lm(ids, last_only=True)
    return Stream(*(torch.stack(kept[name]) for name in ("x", "attention", "mlp")))
