"""One encoder–decoder (Vaswani et al., 2017), of the decoder's own parts and a cross-attention between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast, overload

import torch
from torch import Tensor, nn

from kvlab.cache import Cache, CacheError
from kvlab.model.attention import attend, probabilities
from kvlab.model.config import Config, TranslatorConfig
from kvlab.model.decoder import Block, Decoder, Frame, RMSNorm
from kvlab.model.linear import Linear
from kvlab.stores.base import FREE, Layer, Step, Store
from kvlab.stores.cross import CrossLayer


@dataclass(frozen=True)
class Encoded:
    """What the encoder made of a batch of sources."""

    ids: Tensor  # [batch, source] int32; FREE: padding
    hidden: Tensor  # [batch, source, hidden]

    def select(self, rows: Tensor | Sequence[int]) -> Encoded:
        """Row i is row `rows[i]`: one source for several beams."""
        index = torch.as_tensor(rows, device=self.ids.device)
        return Encoded(self.ids[index], self.hidden[index])


@dataclass
class CrossFrame(Frame):
    """A decoder's frame, and the source that its layers look across to."""

    source: Tensor | None = None  # [batch, source, hidden]; None: every layer holds keys and values of it
    visible: Tensor | None = None  # bool [batch, 1, 1, source]; None: there is no padding


class CrossAttention(nn.Module):
    """Queries from the target, keys and values from the source. Nothing is rotated: two texts, two rulers."""

    def __init__(self, config: Config, index: int):
        super().__init__()
        self.index, self.scale, self.head_dim = index, config.scale, config.head_dim
        hidden, dim = config.hidden_size, config.head_dim
        self.q_proj = Linear(hidden, config.num_attention_heads * dim)
        self.k_proj = Linear(hidden, config.num_key_value_heads * dim)
        self.v_proj = Linear(hidden, config.num_key_value_heads * dim)
        self.o_proj = Linear(config.num_attention_heads * dim, hidden)

    def forward(self, x: Tensor, layer: Layer, frame: CrossFrame) -> Tensor:
        q = self._heads(self.q_proj(x))
        kept = layer if isinstance(layer, CrossLayer) else None
        keys, values = kept.source() if kept and kept.has_source else self.entries(frame.source)
        if frame.record is not None:
            frame.record.cross[self.index] = probabilities(q, keys, frame.visible, self.scale)
        out = attend(q, keys, values, frame.visible, self.scale)
        if kept and not kept.has_source:
            kept.fill(keys, values)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def entries(self, source: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values of `source [batch, source, hidden]`, each `[batch, kv_heads, source, head_dim]`."""
        assert source is not None  # `Translator.forward` has seen to it
        return self._heads(self.k_proj(source)), self._heads(self.v_proj(source))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # [batch, heads, tokens, head_dim]


class CrossBlock(Block):
    """One layer of the decoder: self-attention, cross-attention, MLP."""

    def __init__(self, config: Config, index: int):
        super().__init__(config, index)
        self.cross_attn = CrossAttention(config, index)
        self.cross_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, layer: Layer, frame: Frame) -> Tensor:
        assert isinstance(frame, CrossFrame)
        x = x + self.self_attn(self.input_layernorm(x), layer, frame)
        x = x + self.cross_attn(self.cross_layernorm(x), layer, frame)
        return x + self.mlp(self.post_attention_layernorm(x))


class Translator(Decoder):
    """An encoder–decoder: `encode` a source once, then `lm(ids, cache, source=…)` token by token.

    With `Cache(lm, store="cross")` the cross-attention's keys and values are computed in the first step and
    read in all later ones; with any other store they are computed again in every step.
    """

    block = CrossBlock
    config: TranslatorConfig

    def __init__(self, config: TranslatorConfig):
        super().__init__(config)
        deep = config.replace(num_hidden_layers=config.encoder_layers, layer_types=())
        self.encoder = nn.ModuleList(Block(deep, i) for i in range(config.encoder_layers))
        self.encoder_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def blocks(self) -> list[Block]:
        return [*super().blocks(), *cast("list[Block]", self.encoder)]

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Encoded:
        """Read the sources `ids [batch, source]`, int64; `mask` is False where a word is padding.

        Raises:
            CacheError: wrong shapes, or a source that is all padding.
        """
        if mask is not None and mask.shape == ids.shape and not bool(mask.any(dim=-1).all()):
            raise CacheError("a source of padding alone cannot be read; give each row a word or more.")
        cache = Cache(self, store="none")  # lends its masks and positions; an encoder keeps nothing
        step = cache.begin(ids, mask)
        frame = self.frame(step)
        visible = None if mask is None else (step.positions >= 0)[:, None, None]
        frame.masks, frame.causal, frame.record = {"full": visible}, {"full": False}, None
        x = self.embed(ids)
        for block, layer in zip(self.encoder, _reading(cache, len(self.encoder)), strict=True):
            x = block(x, layer, frame)
        return Encoded(ids.int().masked_fill(step.positions < 0, FREE), self.encoder_norm(x))

    def forward(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        mask: Tensor | None = None,
        last_only: bool = False,
        source: Encoded | None = None,
    ) -> Tensor:
        """Logits `[batch, tokens, vocab]` of the new target tokens `ids [batch, tokens]`, int64.

        source: what `encode` made of the source. May be left out once a cross store has been filled.
        The others as in `Decoder.forward`.

        Raises:
            CacheError: as there; no source, or another one than the cache has seen. Nothing has changed then.
        """
        cache = self.checked(cache)
        seen = self._source(cache, source, ids)
        with cache.step(ids, mask) as step:
            frame = self._across(step, seen, source)
            logits = self.run(step, cache.layers, 1 if last_only else ids.shape[1], frame=frame)
        cache.source = seen
        return logits

    def _source(self, cache: Cache, source: Encoded | None, ids: Tensor) -> Tensor:
        """Ids of the source, int32, that this cache belongs to from now on."""
        held = cache.source
        if source is None:
            layer = cache.layers[0]
            if held is None or not (isinstance(layer, CrossLayer) and layer.has_source):
                raise CacheError(
                    "this cache holds no keys and values of a source; pass source=lm.encode(…), "
                    'in every step unless the store is "cross".'
                )
            return held
        if source.hidden.shape[-1] != self.config.hidden_size or source.hidden.dtype != self.dtype:
            raise CacheError("this source was encoded by another model; use this one's encode(…).")
        if len(source.ids) != len(ids):
            raise CacheError(
                f"{len(ids)} target row(s) were given with {len(source.ids)} source row(s); use select(rows)."
            )
        if held is not None and not torch.equal(held, source.ids):
            raise CacheError(
                "this cache holds another source, and would go on answering that one; "
                "call cache.reset() before a new source, or make a new Cache."
            )
        return source.ids.clone() if held is None else held

    def _across(self, step: Step, seen: Tensor, source: Encoded | None) -> CrossFrame:
        """The frame of a step that looks across to the source with the ids `seen`."""
        base = self.frame(step)
        real = seen >= 0
        frame = CrossFrame(**{field.name: getattr(base, field.name) for field in fields(base)})
        frame.source = None if source is None else source.hidden
        frame.visible = None if bool(real.all()) else real[:, None, None]
        return frame

    @overload
    def translate(self, text: str, to: str, store: str | Store = ...) -> str: ...

    @overload
    def translate(self, text: list[str], to: str, store: str | Store = ...) -> list[str]: ...

    def translate(self, text: str | list[str], to: str, store: str | Store = "cross") -> str | list[str]:
        """A number in words, or a batch of them, in language `to` ("en", "fr", "de").

        The language of each text is told by its words. `store` is that of the cache.

        Raises:
            TranslationError: a language, a number or a word that it was not trained on.
        """
        from kvlab.translation.decode import translated

        out = translated(self, [text] if isinstance(text, str) else text, to, store)
        return out[0] if isinstance(text, str) else out


def _reading(cache: Cache, layers: int) -> list[Layer]:
    """So many layers that keep nothing."""
    return [cache.layers[0]] * layers
