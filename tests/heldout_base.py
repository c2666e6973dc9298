"""What the held-out plants are written on: their registry, a decoder of forty lines, and two libraries."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.doctor.subject import Subject, Unable

VOCAB = 31
Entries = tuple[Tensor, Tensor]  # keys and values, each [batch, heads, slots, head_dim]
Keep = Callable[[int, Tensor, Tensor, Tensor], Entries]


@dataclass(frozen=True)
class Plant:
    """What `make` plants, in whose hands it lies, and the circumstances in which it does damage."""

    misuse: str
    make: Callable[[], Any]
    shows: str = "chunks"  # the exercise of the tests in which it departs from full recompute
    who: str = "step"

    @property
    def id(self) -> str:
        return self.make.__name__.replace("_", "-")


PLANTS: list[Plant] = []


def plants(misuse: str, shows: str = "chunks", who: str = "step") -> Callable:
    def note(make: Callable[[], Any]) -> Callable[[], Any]:
        PLANTS.append(Plant(misuse, make, shows, who))
        return make

    return note


class Mini:
    """Two layers of attention and a tanh MLP in float64; rotary or learned positions."""

    layers, heads, dim = 2, 2, 8

    def __init__(self, learned: bool = False, window: int | None = None, seed: int = 7):
        draw = torch.Generator().manual_seed(seed)
        width = self.heads * self.dim

        def weight(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64) * scale

        self.learned, self.window = learned, window
        self.table, self.places = weight(VOCAB, width), weight(128, width)
        self.qkv = [weight(width, 3 * width, scale=1.6 / width**0.5) for _ in range(self.layers)]
        self.out = [weight(width, width, scale=1 / width**0.5) for _ in range(self.layers)]
        self.mlp = [weight(width, width, scale=1 / width**0.5) for _ in range(self.layers)]

    def turn(self, x: Tensor, at: Tensor) -> Tensor:
        """Rotary: neighbouring numbers of x `[batch, heads, new, dim]` as complex ones, at `[batch, new]`."""
        if self.learned:
            return x
        speed = 100.0 ** (-torch.arange(self.dim // 2, dtype=x.dtype) / (self.dim // 2))
        angle = at[:, None, :, None] * speed
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)

    def run(
        self, tokens: Tensor, at: Tensor, see: Tensor, keep: Keep, path: Callable[[], Any] = lambda: 1
    ) -> Tensor:
        """Logits `[batch, new, vocab]` of `tokens` at positions `at [new]` or `[batch, new]`.

        see: bool `[new, slots]`, or with batch and heads before. keep(layer, rotated keys, values, plain
        keys) remembers them and returns what attention reads. path(): factor on what a layer adds.
        """
        at = at.expand(tokens.shape)
        x = self.table[tokens] + (self.places[at] if self.learned else 0)
        for i in range(self.layers):
            gain = path()
            y = F.layer_norm(x, x.shape[-1:]) @ self.qkv[i]
            q, k, v = y.unflatten(-1, (3, self.heads, self.dim)).permute(2, 0, 3, 1, 4)
            keys, values = keep(i, self.turn(k, at), v, k)
            score = self.turn(q, at) @ keys.transpose(-1, -2) / self.dim**0.5
            mixed = score.masked_fill(~see, float("-inf")).softmax(-1) @ values
            x = x + gain * (mixed.transpose(1, 2).flatten(-2) @ self.out[i])
            x = x + gain * torch.tanh(F.layer_norm(x, x.shape[-1:]) @ self.mlp[i])
        return F.layer_norm(x, x.shape[-1:]) @ self.table.T

    def causal(self, new: int, past: int) -> Tensor:
        """`[new, past + new]`: by position, within the window if there is one."""
        far = torch.arange(past, past + new)[:, None] - torch.arange(past + new)
        return (far >= 0) & (far < (self.window or 10**6))

    def step(
        self, tokens: Tensor, state: list[Entries] | None = None, at: Any = None, see: Any = None
    ) -> tuple[Tensor, list[Entries]]:
        """A right step over lists of keys and values, unless `at` or `see` say otherwise."""
        past, new = 0 if not state else state[0][0].shape[2], tokens.shape[1]
        grown: list[Entries] = []

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            grown.append((torch.cat([state[i][0], k], 2), torch.cat([state[i][1], v], 2)) if past else (k, v))
            return grown[i]

        at = torch.arange(past, past + new) if at is None else at
        see = self.causal(new, past) if see is None else see
        return self.run(tokens, at, see, keep), grown

    def full(self, tokens: Tensor) -> Tensor:
        return self.step(tokens)[0]


def length(state: list[Entries] | None) -> int:
    return state[0][0].shape[2] if state else 0


class Made(Subject):
    """A subject put together from functions; what is not given cannot be done."""

    def __init__(self, step: Callable, full: Callable, **can: Callable):
        self.vocab_size, self.plain = VOCAB, step
        for name, function in {"full": full, **can}.items():
            setattr(self, name, function)

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        if mask is not None and not mask.all():
            raise Unable
        return self.plain(tokens, state)


class Hugging(Subject):
    """A right step on a transformers model; plants change the mask, the positions or the cache."""

    vocab_size = VOCAB

    def __init__(self, model: Any):
        self.model = model

    def start(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def positions(self, seen: Tensor, new: int) -> Tensor:
        """Of the new tokens; seen: `[batch, past + new]`, 0 at padding."""
        return (seen.cumsum(-1) - 1).clamp(min=0)[:, -new:]

    def mask(self, seen: Tensor, new: int) -> Tensor:
        return seen

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        cache, seen = state or (self.start(), tokens[:, :0])
        new = tokens.shape[1]
        seen = torch.cat([seen, torch.ones_like(tokens) if mask is None else mask.long()], dim=1)
        told = {"attention_mask": self.mask(seen, new), "position_ids": self.positions(seen, new)}
        return self.model(tokens, past_key_values=cache, **told).logits, (cache, seen)

    @torch.no_grad()
    def full(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits

    def fork(self, state: Any) -> Any:
        return copy.deepcopy(state)

    def reorder(self, state: Any, rows: list[int]) -> Any:
        cache, seen = copy.deepcopy(state)
        cache.reorder_cache(torch.tensor(rows))
        return cache, seen[rows]

    def to(self, dtype: torch.dtype) -> Subject:
        return type(self)(copy.deepcopy(self.model).to(dtype))

    def train(self, on: bool) -> None:
        self.model.train(on)


def hugging(family: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A small random transformers model whose attention is sharp enough for a mistake to matter."""
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family != "GPT2":
        shape |= {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256}
    config = getattr(transformers, f"{family}Config")(
        **(shape | special | {"initializer_range": 0.3} | settings)
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def wrapper(seed: int = 5, flag: bool = False, layer: dict | None = None, **settings: Any) -> Any:
    """A small random x-transformers model in float64."""
    from x_transformers import Decoder, TransformerWrapper

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **(layer or {}))
        model = TransformerWrapper(
            num_tokens=VOCAB, max_seq_len=256, attn_layers=layers, input_not_include_cache=flag, **settings
        )
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.35)
    return model.double().eval()
