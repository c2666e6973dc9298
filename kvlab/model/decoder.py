"""One decoder for the Llama and Gemma 3 families. Module names are those of their checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvlab.cache import Cache, CacheError
from kvlab.model import fused
from kvlab.model.attention import Rotated, attend, implied, may_see, received
from kvlab.model.blockwise import attend_blocks
from kvlab.model.config import Config
from kvlab.model.linear import Linear, fuse, project
from kvlab.model.rotary import angles, inverse_frequencies, rotate
from kvlab.model.selected import Question
from kvlab.model.selecting import attend_chosen, update_index
from kvlab.stores.base import Layer, Step, View

if TYPE_CHECKING:
    from kvlab.record import Record

Call = Callable[..., Tensor]
CosSin = tuple[Tensor, Tensor]  # each [batch, 1 or kv_heads, tokens, head_dim]


@dataclass
class Frame:
    """What the layers of one forward call share, by layer type ("full" or "sliding")."""

    step: Step
    rope: dict[str, CosSin]  # at the new tokens' positions
    masks: dict[str, Tensor | None]  # over the shared positions; None: all visible, or causal
    causal: dict[str, bool]
    record: Record | None = None


def call(module: Call, *args: object) -> Tensor:
    return module(*args)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """`x [batch, 1 or kv_heads, …]` for every query head."""
    return x if x.shape[1] == 1 else x.repeat_interleave(heads // x.shape[1], dim=1)


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang & Sennrich, 2019)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Project, let the cache keep the keys and values, attend, mix."""

    qkv: Tensor  # q_proj, k_proj and v_proj as one, [(heads + 2 kv_heads) * head_dim, hidden]
    frequencies: Tensor  # [head_dim / 2]

    def __init__(self, config: Config, index: int):
        super().__init__()
        self.index, self.kind = index, config.layer_types[index]
        self.window, self.scale, self.head_dim = config.window(index), config.scale, config.head_dim
        hidden, dim = config.hidden_size, config.head_dim
        self.q_proj = Linear(hidden, config.num_attention_heads * dim)
        self.k_proj = Linear(hidden, config.num_key_value_heads * dim)
        self.v_proj = Linear(hidden, config.num_key_value_heads * dim)
        self.o_proj = Linear(config.num_attention_heads * dim, hidden)
        self.q_norm = RMSNorm(dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(dim, config.rms_norm_eps) if config.qk_norm else None
        self.heads = config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads
        self.register_buffer("qkv", None, persistent=False)
        self.register_buffer("frequencies", None, persistent=False)

    def forward(self, x: Tensor, layer: Layer, frame: Frame) -> Tensor:
        q, view = self._write(x, layer, frame)
        out = self._attend(q, view, layer, frame)
        layer.settle(q, self._mass(q, view, layer, frame.step), view, frame.step)
        return self.o_proj(out.transpose(1, 2).reshape(*x.shape[:2], -1))

    def fill(self, x: Tensor, layer: Layer, frame: Frame) -> None:
        """Leave in `layer` what `forward` leaves, where nobody asks what attention gives: most of the work
        of a long prompt. A selection that shapes prompts needs `forward`.
        """
        q, view = self._write(x, layer, frame)
        layer.bytes_read = layer.entries_read = None
        if layer.knobs.selection is not None:
            view.heads = self.heads[1]
            update_index(view, layer, frame.step)
        layer.settle(q, self._mass(q, view, layer, frame.step), view, frame.step)

    def _write(self, x: Tensor, layer: Layer, frame: Frame) -> tuple[Tensor, View]:
        """The queries of `x [batch, tokens, hidden]`, and the entries they may look at, its own included."""
        batch, tokens, _ = x.shape
        step = frame.step
        qkv = project(x, self.qkv).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split(self.heads, dim=1)  # [batch, heads or kv_heads, tokens, head_dim]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if not layer.knobs.plain_keys:
            q, k = rotate(q, *frame.rope[self.kind]), rotate(k, *frame.rope[self.kind])
            return q, layer.append(k, v, step)
        view = layer.append(k, v, step)
        at_queries, at_keys = (angles(positions, self.frequencies, x.dtype) for positions in view.rope)
        view.keys = Rotated(view.keys, *at_keys)
        return rotate(q, *(repeat_heads(part, q.shape[1]) for part in at_queries)), view

    def _attend(self, q: Tensor, view: View, layer: Layer, frame: Frame) -> Tensor:
        step, selection = frame.step, layer.knobs.selection
        if frame.record is not None:
            frame.record.add(self, q, view, step)
        layer.bytes_read = layer.entries_read = None  # all of them
        if selection is not None:
            view.heads = self.heads[1]
            look, kernels = frame.record is not None, layer.knobs.kernels
            asked = Question(q, view, self.window, self.scale, step, look, kernels)
            read = attend_chosen(selection, asked, layer)
            if read is not None:
                layer.bytes_read, layer.entries_read, layer.served = read.bytes_read, read.entries, read.by
                if frame.record is not None and read.seen is not None:
                    frame.record.read[self.index] = read.seen
                return read.out
        if view.positions is step.shared(self.window):
            mask, causal = frame.masks[self.kind], frame.causal[self.kind]
        else:  # an eviction has given this layer a ledger of its own
            mask, causal = may_see(step.positions, view.positions, self.window), False
        out, layer.served = fused.attend_packed(q, view, mask, self.scale, layer.knobs)
        if out is not None:
            return out
        if layer.knobs.blockwise is not None and step.tokens == 1:
            return attend_blocks(q, view, mask, self.scale, layer.knobs.blockwise)
        keys, values = view.read()  # [batch, kv_heads, slots, head_dim]
        return attend(q, keys, values, mask, self.scale, causal, view.bias)

    def _mass(self, q: Tensor, view: View, layer: Layer, step: Step) -> Tensor | None:
        eviction = layer.knobs.eviction
        newest = 0 if eviction is None else min(eviction.watches(view, step), step.tokens)
        if not newest:
            return None
        positions = step.positions[:, -newest:]
        mask = may_see(positions, view.positions, self.window)
        return received(q[:, :, -newest:], view.keys.read(), mask, self.scale, positions >= 0, view.bias)


class MLP(nn.Module):
    """SwiGLU (Llama) or GeGLU (Gemma): down(act(gate(x)) * up(x)). (Shazeer, 2020)"""

    gate_up: Tensor  # gate_proj and up_proj as one, [2 * intermediate, hidden]

    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)
        self.register_buffer("gate_up", None, persistent=False)
        self.tanh = config.activation == "gelu_tanh"

    def forward(self, x: Tensor) -> Tensor:
        gate, up = project(x, self.gate_up).chunk(2, dim=-1)
        gate = F.gelu(gate, approximate="tanh") if self.tanh else F.silu(gate)
        return self.down_proj(gate * up)


class Block(nn.Module):
    """One layer: attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, config: Config, index: int):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, index)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.sandwich = config.sandwich_norms
        if self.sandwich:
            self.pre_feedforward_layernorm = RMSNorm(size, eps)
            self.post_feedforward_layernorm = RMSNorm(size, eps)

    def forward(self, x: Tensor, layer: Layer, frame: Frame) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), layer, frame)
        if not self.sandwich:
            x = x + attended
            return x + self.mlp(self.post_attention_layernorm(x))
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Decoder(nn.Module):
    """A decoder-only transformer. `lm(ids, cache)` passes the new tokens only and appends to the cache."""

    block: type[Block] = Block  # what a layer is

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.tokenizer: Any = None
        # from_pretrained draws no random weights; drawing them on "meta" would import the compiler (2 s).
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(self.block(config, i) for i in range(config.num_hidden_layers))
        attentions = [block.self_attn for block in cast("list[Block]", self.layers)]
        self.kinds = {attention.kind: attention for attention in reversed(attentions)}
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.recordings: dict[int, Record] = {}  # of kvlab.record, by the thread that records

    @property
    def recording(self) -> Record | None:
        """What notes the calls of this thread; a widget's callback beside a cell is another thread."""
        if not self.recordings:
            return None
        if torch.compiler.is_compiling():  # a step that is traced cannot ask for its thread
            return next(iter(self.recordings.values()))
        return self.recordings.get(threading.get_ident())

    @classmethod
    def from_weights(
        cls,
        config: Config,
        weights: dict[str, Tensor],
        tokenizer: Any = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """A decoder on `weights`, named as in the checkpoints without the leading "model.".

        `weights` is emptied. A tensor that is already on `device` in `dtype` is used as it is; those that are
        fused (q, k and v; gate and up) are copied one layer after the other, and their originals let go, so
        that little more than the model is ever held.

        Raises:
            ValueError: names or shapes are not those of `config`.
        """
        with torch.device("meta"):
            lm = cls(config)
        expected = {name: tuple(p.shape) for name, p in lm.named_parameters()}
        given = {name: tuple(weights[name].shape) for name in weights}
        if expected != given:
            wrong = sorted(
                name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)
            )
            raise ValueError(
                f"these weights are not those of {config.name}: {len(wrong)} differ, first {wrong[0]} "
                f"(expected {expected.get(wrong[0], 'none')}, found {given.get(wrong[0], 'none')})."
            )
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        state = {}
        for name in expected:
            weight = weights.pop(name)
            if config.norm_plus_one and "norm" in name:  # Gemma stores its norm weights less one
                weight = 1 + weight.to(precise)
            state[name] = weight.to(device, dtype)
        lm.load_state_dict(state, assign=True)
        del state, weight
        for block in lm.blocks():
            attention, mlp = block.self_attn, block.mlp
            attention.qkv = fuse(attention.q_proj, attention.k_proj, attention.v_proj)
            attention.frequencies = inverse_frequencies(config, attention.kind, precise).to(device)
            mlp.gate_up = fuse(mlp.gate_proj, mlp.up_proj)
        lm.tokenizer = tokenizer
        return lm.eval()

    def blocks(self) -> list[Block]:
        """Every layer of the model."""
        return list(cast("list[Block]", self.layers))

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    def forward(
        self, ids: Tensor, cache: Cache | None = None, mask: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Logits `[batch, tokens, vocab]` of the new tokens `ids [batch, tokens]`, int64.

        cache: what came before, extended by `ids`; None: nothing came before, and nothing is kept.
        mask: `[batch, tokens]`, False where a new token is padding. last_only: the last position's
        logits only, `[batch, 1, vocab]`.

        Raises:
            CacheError: wrong shapes, a full cache, a cache of another model; nothing has changed then.
        """
        cache = self.checked(cache)
        with cache.step(ids, mask) as step:
            return self.run(step, cache.layers, tokens=1 if last_only else ids.shape[1])

    def checked(self, cache: Cache | None) -> Cache:
        """The cache, refused where it was made for another model; None: one that keeps nothing."""
        if cache is None:
            return Cache(self, store="none")
        if cache.config is not self.config and cache.config != self.config:
            raise CacheError(f"this cache was made for {cache.config.name}, not for {self.config.name}.")
        if cache.dtype != self.dtype or cache.device != self.device:
            raise CacheError(
                f"this cache holds {cache.dtype} on {cache.device}, but the model computes in {self.dtype} "
                f"on {self.device}; make a new Cache."
            )
        return cache

    def run(
        self,
        step: Step,
        layers: list[Layer],
        tokens: int,
        block: Call = call,
        head: Call = call,
        *,
        frame: Frame | None = None,
    ) -> Tensor:
        """The tensor work of one step: logits of its last `tokens` positions.

        `block` and `head` call a layer and the output head; a compiled step passes compiled ones. frame: what
        the layers share, where there is more to share than `self.frame(step)`.
        """
        frame = frame or self.frame(step)
        x = self.embed(step.ids)  # [batch, tokens, hidden]
        for module, layer in zip(self.layers, layers, strict=True):
            x = block(module, x, layer, frame)
        return head(self.head, x[:, -tokens:])

    def frame(self, step: Step) -> Frame:
        """Angles and masks of a step, once for all layers of a type."""
        frame = Frame(step, {}, {}, {}, self.recording)
        for kind, attention in self.kinds.items():
            window = attention.window
            frame.rope[kind] = angles(step.positions.unsqueeze(1), attention.frequencies, self.dtype)
            known = implied(step, window)
            frame.causal[kind] = known == "causal"
            shared = step.shared(window)
            frame.masks[kind] = may_see(step.positions, shared, window) if known is None else None
        return frame

    def embed(self, ids: Tensor) -> Tensor:
        """`[batch, tokens]` -> `[batch, tokens, hidden]`."""
        x = self.embed_tokens(ids)
        if self.config.embed_scale == 1.0:
            return x
        # Rounded to the weights' dtype, as in the checkpoints' own code; filled on the device, because a copy
        # from the host cannot be captured in a CUDA graph.
        return x * torch.full((), self.config.embed_scale, dtype=x.dtype, device=x.device)

    def head(self, x: Tensor) -> Tensor:
        """`[batch, tokens, hidden]` -> logits `[batch, tokens, vocab]`."""
        table = self.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return project(self.norm(x), table.weight)
