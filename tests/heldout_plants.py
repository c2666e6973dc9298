"""Misuses planted a second time, for the doctor's exam: its probes were not tried on any of these.

Each factory of `PLANTS` returns a decoding step or a caller's loop with one misuse in it, written in another
way and met in another place than the obvious one. `CORRECT` holds steps and models with none, `LOSSY` caches
that forget on purpose. All models are random, and small enough to be made anew for every test.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kvlab
from kvlab.doctor.loose import Loose
from kvlab.doctor.subject import Subject, Unable
from kvlab.model.rotary import angles, rotate

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


# --- a decoder of forty lines that leaves everything to its caller ---


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


# --- the step is wrong: positions ---


@plants("positions-restart")
def positions_counted_in_the_mask_of_the_new_tokens() -> Subject:
    """The usual `mask.cumsum(-1) - 1`, taken of the one-token mask; the attention mask is right."""

    class Restarts(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            return seen[:, -new:].cumsum(-1) - 1

    return Restarts(hugging("Llama"))


@plants("positions-restart")
def learned_positions_and_the_last_token_only() -> Callable:
    """x-transformers' wrapper in its default contract, given the new tokens alone."""
    model = wrapper()

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return model(tokens, cache=state, return_intermediates=True, cache_age=tokens.shape[1])

    return step


@plants("whole-sequence-appended")
def the_text_so_far_into_a_dynamic_cache() -> Callable:
    model = hugging("GPT2", n_positions=1024)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        text, cache = state or (tokens[:, :0], None)
        text = torch.cat([text, tokens], dim=1)
        out = model(text, past_key_values=cache, use_cache=True)
        return out.logits[:, -tokens.shape[1] :], (text, out.past_key_values)

    return step


@plants("whole-sequence-with-new-only-flag")
def flag_in_the_constructor_and_the_text_passed_whole() -> Callable:
    return whole_text(wrapper(flag=True, scaled_sinu_pos_emb=True))


@plants("whole-sequence-with-new-only-flag")
def flag_at_every_call_and_the_text_passed_whole() -> Callable:
    return whole_text(wrapper(), input_not_include_cache=True)


def whole_text(model: Any, **settings: Any) -> Callable:
    """A step that passes the text from its beginning to an x-transformers model."""

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        text, cache = state or (tokens[:, :0], None)
        text, new = torch.cat([text, tokens], dim=1), tokens.shape[1]
        out, cache = model(text, cache=cache, return_intermediates=True, cache_age=new, **settings)
        return out[:, -new:], (text, cache)

    return step


@plants("offset-by-one")
def every_later_call_one_position_too_early() -> Callable:
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        last = max(length(state) - 1, 0)  # the index of the last entry, where the next one was meant
        return mini.step(tokens, state, at=torch.arange(last, last + tokens.shape[1]))

    return step


@plants("offset-by-one")
def index_of_the_last_token_for_the_next() -> Subject:
    """The same where the doctor can find the model, and rows may be padded."""

    class Behind(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            at = super().positions(seen, new)
            return (at - 1).clamp(min=0) if seen.shape[1] > new else at

    return Behind(hugging("GPT2"))


@plants("positions-from-stored-length", shows="long")
def position_is_the_length_of_the_first_layers_keys() -> Callable:
    """transformers: a sliding layer's keys are never longer than the window; `get_seq_length()` knows."""
    right = Hugging(hugging("Mistral", sliding_window=6))

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        cache, past = (right.start(), 0) if state is None else (state, state.layers[0].keys.shape[2])
        at = torch.arange(past, past + tokens.shape[1]).expand(tokens.shape)
        return right.model(tokens, past_key_values=cache, position_ids=at).logits, cache

    return step


@plants("positions-from-stored-length", shows="long")
def position_is_the_length_of_trimmed_lists() -> Subject:
    """A sliding window model that rightly drops what no query can see, and then counts what is left."""
    mini = Mini(window=6)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits, state = mini.step(tokens, state)
        return logits, [(k[:, :, -5:], v[:, :, -5:]) for k, v in state]

    return Made(step, mini.full)


@plants("positions-from-stored-length", shows="padding")
def decode_positions_count_the_padding() -> Subject:
    """The prompt is right; at decoding a step takes the cache's length, padding and all."""

    class Counts(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            columns = torch.arange(seen.shape[1]).expand(len(seen), -1)
            return columns[:, -new:] if seen.shape[1] > new else super().positions(seen, new)

    return Counts(hugging("GPT2"))


@plants("mixed-rotation")
def decoded_keys_are_stored_plain() -> Callable:
    """The prompt's keys are stored rotated, a later token's as it came; it reads its own one rotated."""
    mini = Mini()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        past, new, stored = length(state), tokens.shape[1], []

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            if not past:
                stored.append((k, v))
                return k, v
            stored.append((torch.cat([state[i][0], plain], 2), torch.cat([state[i][1], v], 2)))
            return torch.cat([state[i][0], k], 2), stored[i][1]

        logits = mini.run(tokens, torch.arange(past, past + new), mini.causal(new, past), keep)
        return logits, stored

    return step


@plants("mixed-rotation")
def decoded_keys_are_turned_back() -> Callable:
    """On kvlab's decoder: after every later call its keys are rotated back to what they were."""
    lm = kvlab.load("tiny", device="cpu")

    def step(tokens: Tensor, state: Loose | None = None) -> tuple[Tensor, Loose]:
        cache = state or Loose(lm)
        past, logits = cache.length, cache(tokens)
        at = torch.arange(past, cache.length)[None, None]
        cos, sin = angles(at, lm.layers[0].self_attn.frequencies, lm.dtype)
        for layer in cache.layers if past else []:
            layer.keys[:, :, past:] = rotate(layer.keys[:, :, past:], cos, -sin)
        return logits, cache

    return step


# --- the step is wrong: masks ---


@plants("mask-new-tokens-only")
def attention_mask_of_the_new_tokens() -> Subject:
    class Short(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            return seen[:, -new:]

    return Short(hugging("Llama"))


@plants("mask-new-tokens-only")
def the_past_is_minus_infinity() -> Callable:
    """The chunk's own square mask, padded on the left with False where True was meant."""
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        see = F.pad(mini.causal(tokens.shape[1], 0), (length(state), 0))
        return mini.step(tokens, state, see=see)

    return step


@plants("mask-top-left")
def tril_of_a_mask_that_is_not_square() -> Subject:
    class TopLeft(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            return torch.ones(len(seen), 1, new, seen.shape[1], dtype=torch.bool).tril()

    return TopLeft(hugging("GPT2"))


@plants("no-mask-in-chunk")
def additive_mask_of_zeros_behind_a_past() -> Subject:
    class Open(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            if seen.shape[1] == new:
                return seen
            return torch.zeros(len(seen), 1, new, seen.shape[1], dtype=self.model.dtype)

    return Open(hugging("Qwen3", head_dim=8))


@plants("no-mask-in-chunk", shows="prefill")
def a_long_prompt_cut_in_fours() -> Subject:
    """Cuts its prompt by itself: the first four tokens have a mask, the later fours see their own ends."""
    mini = Mini(learned=True)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits = []
        for part in tokens.split(4, dim=1):
            past, new = length(state), part.shape[1]
            see = torch.ones(new, past + new, dtype=torch.bool) if past else None
            out, state = mini.step(part, state, see=see)
            logits.append(out)
        return torch.cat(logits, dim=1), state

    return Made(step, mini.full)


@plants("own-entry-left-out")
def diagonal_one_too_low() -> Subject:
    """`tril(past - 1)`: a later token sees the past and its chunk, but not itself."""

    class Blind(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            past = seen.shape[1] - new
            see = torch.ones(len(seen), 1, new, past + new, dtype=torch.bool)
            return see.tril(past - 1) if past else seen

    return Blind(hugging("Llama"))


@plants("padding-without-mask", shows="padding")
def padding_is_masked_in_the_prompt_only() -> Subject:
    class Forgets(Hugging):
        def mask(self, seen: Tensor, new: int) -> Tensor:
            return seen if seen.shape[1] == new else torch.ones_like(seen)

    return Forgets(hugging("Llama"))


@plants("padding-without-positions", shows="padding")
def learned_positions_count_the_columns() -> Subject:
    class Columns(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            return torch.arange(seen.shape[1]).expand(len(seen), -1)[:, -new:]

    return Columns(hugging("GPT2"))


# --- the step is wrong: storage ---


@dataclass
class Buffer:
    """`slots` preallocated for each layer, `[batch, heads, slots, dim]`, and how many have been filled."""

    slots: int
    entries: list[Entries]
    used: int = 0
    high: int = 0  # one more than the highest slot that was ever written


def buffered(mini: Mini, slots: int, where: Callable, see: Callable) -> Callable[..., tuple[Tensor, Buffer]]:
    """A step over preallocated slots; where(state, new): slots to write; see(state, new): who sees which."""

    def step(tokens: Tensor, state: Buffer | None = None) -> tuple[Tensor, Buffer]:
        if state is None:
            shape = (len(tokens), mini.heads, slots, mini.dim)
            room = [(torch.zeros(shape).double(), torch.zeros(shape).double()) for _ in range(mini.layers)]
            state = Buffer(slots, room)
        new, past = tokens.shape[1], state.used
        index = where(state, new)
        state.high = max(state.high, int(index.max()) + 1)

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            for room, fresh in zip(state.entries[i], (k, v), strict=True):
                for j, slot in enumerate(index.tolist()):
                    room[:, :, slot] = fresh[:, :, j]
            return state.entries[i]

        logits = mini.run(tokens, torch.arange(past, past + new), see(state, new), keep)
        state.used = past + new
        return logits, state

    return step


def in_order(state: Buffer, new: int) -> Tensor:
    return torch.arange(state.used, state.used + new)


def below(state: Buffer, new: int) -> Tensor:
    """Slot i holds position i."""
    return torch.arange(state.slots) <= in_order(state, new)[:, None]


@plants("static-not-reset", shows="reset")
def counter_reset_but_old_slots_in_sight() -> Subject:
    """`reset` sets the counter to 0; what hides a slot is that nothing was ever written to it."""
    mini = Mini()

    def see(state: Buffer, new: int) -> Tensor:
        slot = torch.arange(state.slots)
        stale = (slot >= state.used + new) & (slot < state.high)
        return below(state, new) | stale

    def reset(state: Buffer) -> Buffer:
        state.used = 0
        return state

    return Made(buffered(mini, 96, in_order, see), mini.full, reset=reset)


@plants("static-overflow", shows="long")
def writes_clamped_to_the_last_slot() -> Subject:
    """As an update at a clamped index does it: past the capacity every token replaces the one before."""
    mini = Mini(learned=True)

    def where(state: Buffer, new: int) -> Tensor:
        return in_order(state, new).clamp(max=state.slots - 1)

    return Made(buffered(mini, 16, where, below), mini.full)


@plants("static-overflow", shows="long")
def what_comes_late_is_not_stored() -> Callable:
    """On kvlab's decoder: a full store still answers, each new token from the 20 stored ones and itself."""
    lm = kvlab.load("tiny", device="cpu")

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen, cache = state or (0, Loose(lm))
        after = seen + tokens.shape[1]
        logits = cache(tokens, positions=torch.arange(seen, after))
        cache.crop(min(20, cache.length))
        return logits, (after, cache)

    return step


@plants("capacity-becomes-window", shows="long")
def static_cache_of_a_sliding_model_too_small() -> Subject:
    """transformers: a window of 64, and a StaticCache of 10, which takes the smaller of the two."""

    class Small(Hugging):
        def start(self) -> Any:
            from transformers import StaticCache

            return StaticCache(config=self.model.config, max_cache_len=10)

    return Small(hugging("Mistral", sliding_window=64))


@plants("shared-prefix-in-place", shows="fork")
def forks_are_views_of_one_buffer() -> Subject:
    mini = Mini()

    def fork(state: Buffer) -> Buffer:
        views = [(k[:], v[:]) for k, v in state.entries]  # a slice: new tensors, old storage
        return Buffer(state.slots, views, state.used, state.high)

    return Made(buffered(mini, 96, in_order, below), mini.full, fork=fork)


@plants("crop-on-ring", shows="crop")
def crop_lowers_the_counter_of_a_ring() -> Subject:
    """A window of 6 in a ring of 6: what the dropped tokens have overwritten is gone, and theirs is read."""
    mini, size = Mini(window=6), 6

    def see(state: Buffer, new: int) -> Tensor:
        return torch.arange(size) < state.used + 1

    one = buffered(mini, size, lambda state, new: in_order(state, new) % size, see)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits = []
        for token in tokens.split(1, dim=1):  # a ring as large as the window takes one token at a time
            out, state = one(token, state)
            logits.append(out)
        return torch.cat(logits, dim=1), state

    def crop(state: Buffer, n: int) -> Buffer:
        state.used = n
        return state

    return Made(step, mini.full, crop=crop)


# --- the step is wrong: train mode, batches ---


@plants("dropout-on", shows="twice")
def attention_dropout_alone() -> Any:
    """A transformers model as it comes out of training; only its attention weights are dropped."""
    return hugging("Llama", attention_dropout=0.3).train()


@plants("layer-dropout", shows="twice")
def drop_path_for_each_row() -> Subject:
    """Stochastic depth as vision models have it: each row skips a layer by itself, the others are scaled."""
    mini = Mini()
    draw = torch.Generator().manual_seed(0)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        past, new, grown = length(state), tokens.shape[1], []

        def keep(i: int, k: Tensor, v: Tensor, plain: Tensor) -> Entries:
            grown.append((torch.cat([state[i][0], k], 2), torch.cat([state[i][1], v], 2)) if past else (k, v))
            return grown[i]

        def path() -> Tensor:
            return (torch.rand(len(tokens), 1, 1, generator=draw, dtype=torch.float64) < 0.7) / 0.7

        at = torch.arange(past, past + new)
        return mini.run(tokens, at, mini.causal(new, past), keep, path), grown

    return Made(step, lambda tokens: step(tokens)[0])


@plants("layer-dropout", shows="twice")
def layer_dropout_left_on() -> Any:
    """An x-transformers model as it comes out of training."""
    return wrapper(layer={"layer_dropout": 0.4}).train()


@plants("rows-permuted", shows="batch")
def rows_sorted_anew_in_every_call() -> Callable:
    """Sorts its rows by first token, to batch like with like; the cache keeps the order of its first call."""
    mini = Mini()

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        order = tokens[:, 0].argsort(stable=True)
        logits, state = mini.step(tokens[order], state)
        return logits[order.argsort()], state

    return step


@plants("rows-permuted", shows="reorder")
def reorder_scatters_where_it_should_gather() -> Subject:
    """Row `rows[i]` becomes what row i was: the same for a swap, the inverse for a turn of three."""

    class Scatters(Hugging):
        def reorder(self, state: Any, rows: list[int]) -> Any:
            cache, seen = copy.deepcopy(state)
            to = torch.tensor(rows)
            for layer in cache.layers:
                layer.keys = layer.keys.clone().index_copy_(0, to, layer.keys)
                layer.values = layer.values.clone().index_copy_(0, to, layer.values)
            return cache, seen

    return Scatters(hugging("Llama"))


@plants("gradients-kept", shows="gradients")
def logits_detached_but_not_the_cache() -> Callable:
    model = hugging("Llama", dtype=torch.float32)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=state, use_cache=True)
        return out.logits.detach(), out.past_key_values

    return step


@plants("rows-permuted", shows="reorder")
def keys_follow_their_rows_and_values_do_not() -> Subject:
    class KeysOnly(Hugging):
        def reorder(self, state: Any, rows: list[int]) -> Any:
            cache, seen = copy.deepcopy(state)
            for layer in cache.layers:
                layer.keys = layer.keys[rows]
            return cache, seen

    return KeysOnly(hugging("Llama"))


# --- the caller's mistakes: a right step in a wrong loop ---
#
# loop(ids [1, prompt], new) -> logits [len(new), vocab], row i before token new[i]; `loop.full` recomputes.


def forced(step: Callable, tokens: Tensor, state: Any, new: list[int]) -> Tensor:
    """Logits after `tokens`, and after each token of `new` but the last."""
    logits = []
    for token in new:
        out, state = step(tokens, state)
        logits.append(out[0, -1])
        tokens = tokens.new_tensor([[token]])
    return torch.stack(logits)


def cached(lm: Any) -> Callable:
    """A right step on kvlab's decoder."""

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        cache = kvlab.Cache(lm) if cache is None else cache
        return lm(tokens, cache), cache

    return step


@plants("another-prompts-cache", shows="loop", who="caller")
def prompts_remembered_by_their_length() -> Callable:
    """Saves the second prefill of a prompt; two prompts of one length are taken for the same."""
    lm, known = kvlab.load("tiny", device="cpu"), {}
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        if ids.shape[1] not in known:
            known[ids.shape[1]] = step(ids[:, :-1], None)[1]
        return forced(step, ids[:, -1:], known[ids.shape[1]].fork(), new)

    loop.full = lm
    return loop


@plants("cache-covers-prompt", shows="loop", who="caller")
def prompt_scored_and_then_passed_again() -> Callable:
    right = Hugging(hugging("GPT2"))

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        _, state = right.step(ids)  # its likelihood was wanted first
        return forced(right.step, ids, state, new)

    loop.full = right.full
    return loop


@plants("cache-covers-prompt", shows="loop", who="caller")
def last_token_of_the_prompt_passed_again() -> Callable:
    """The cache covers the whole prompt, and yet something has to be passed to have logits."""
    lm = kvlab.load("tiny", device="cpu")
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        _, cache = step(ids, None)
        return forced(step, ids[:, -1:], cache, new)

    loop.full = lm
    return loop


@plants("static-not-reset", shows="loop", who="caller")
def one_static_cache_for_all_texts() -> Callable:
    return static_loop(reset=False)


def static_loop(reset: bool) -> Callable:
    from transformers import StaticCache

    model = hugging("Llama")
    cache = StaticCache(config=model.config, max_cache_len=1024)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return model(tokens, past_key_values=cache).logits, None

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        if reset:
            cache.reset()
        return forced(step, ids, None, new)

    loop.full = Hugging(model).full
    return loop


@plants("gradients-kept", shows="gradients", who="caller")
def session_keeps_its_last_cache() -> Callable:
    """No `no_grad`; what the loop returns is detached, and the cache that it keeps for later is not."""
    model, session = hugging("GPT2", dtype=torch.float32), {}

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out = model(tokens, past_key_values=state, use_cache=True)
        session["cache"] = out.past_key_values
        return out.logits.detach(), out.past_key_values

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        return forced(step, ids, None, new)

    loop.session = session
    return loop


# --- nothing is wrong: the doctor has to stay silent ---

CORRECT: list[Callable[[], Any]] = []  # what they return is checked; a pair is a kvlab model and its cache


def right(make: Callable[[], Any]) -> Callable[[], Any]:
    CORRECT.append(make)
    return make


@right
def grouped_queries() -> Any:
    return hugging("Llama")


@right
def llama_in_bfloat16() -> Any:
    return hugging("Llama", dtype=torch.bfloat16)


@right
def llama_as_it_is_initialised() -> Any:
    """Hardly any attention to speak of: what rounding does must not look big beside it."""
    return hugging("Llama", dtype=torch.float32, initializer_range=0.02)


@right
def train_mode_without_dropout() -> Any:
    return hugging("Llama", dtype=torch.float32).train()


@right
def learned_positions() -> Any:
    return hugging("GPT2")


@right
def learned_positions_padded() -> Subject:
    return Hugging(hugging("GPT2"))


@right
def rotary_padded_without_positions() -> Subject:
    """A mask is all that rotary positions need: they are relative."""

    class Columns(Hugging):
        def positions(self, seen: Tensor, new: int) -> Tensor:
            return torch.arange(seen.shape[1]).expand(len(seen), -1)[:, -new:]

    return Columns(hugging("Llama"))


@right
def normed_queries_and_keys() -> Any:
    return hugging("Qwen3", head_dim=8)


@right
def window_of_six() -> Any:
    return hugging("Mistral", sliding_window=6)


@right
def windows_and_full_layers() -> Any:
    kinds = ["sliding_attention", "full_attention"]
    return hugging("Gemma3Text", head_dim=8, sliding_window=6, layer_types=kinds)


@right
def alibi() -> Any:
    return hugging("Bloom", dtype=torch.float32, n_layer=2, n_head=4)


@right
def static_cache_reset_between_texts() -> Subject:
    class Static(Hugging):
        def start(self) -> Any:
            from transformers import StaticCache

            return StaticCache(config=self.model.config, max_cache_len=512)

        def reset(self, state: Any) -> Any:
            state[0].reset()
            return state[0], state[1][:, :0]

    return Static(hugging("Llama"))


@right
def wrapper_that_wants_the_whole_sequence() -> Any:
    return wrapper(layer={"rotary_pos_emb": True}, use_abs_pos_emb=False).float()


@right
def wrapper_that_wants_new_tokens_only() -> Any:
    return wrapper(flag=True).float()


@right
def wrapper_in_float64() -> Any:
    return wrapper(flag=True)


@right
def last_token_only_where_bias_says_how_far() -> Callable:
    """x-transformers with the bias of T5: without positions of their own, new tokens alone are enough."""
    model = wrapper(layer={"rel_pos_bias": True}, use_abs_pos_emb=False)

    @torch.no_grad()
    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return model(tokens, cache=state, return_intermediates=True, cache_age=tokens.shape[1])

    return step


@right
def lists_by_hand() -> Callable:
    return Mini().step


@right
def lists_by_hand_learned_positions() -> Callable:
    return Mini(learned=True).step


@right
def lists_trimmed_to_the_window() -> Callable:
    """The fix of `position_is_the_length_of_trimmed_lists`: count the tokens, not what is left of them."""
    mini = Mini(window=6)

    def step(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen, lists = state or (0, None)
        logits, lists = mini.step(tokens, lists, at=torch.arange(seen, seen + tokens.shape[1]))
        return logits, (seen + tokens.shape[1], [(k[:, :, -5:], v[:, :, -5:]) for k, v in lists])

    return step


@right
def preallocated_slots() -> Subject:
    """Written in place, and the state that comes back is the one that went in."""
    mini = Mini()

    def crop(state: Buffer, n: int) -> Buffer:
        state.used = n
        return state

    def fork(state: Buffer) -> Buffer:
        return copy.deepcopy(state)

    can = {"crop": crop, "fork": fork, "reset": lambda state: crop(state, 0)}
    return Made(buffered(mini, 160, in_order, below), mini.full, **can)


@right
def kvlab_windows_and_normed_queries() -> Any:
    return kvlab.random("tiny-gemma3", seed=3)


@right
def kvlab_static_for_three() -> Any:
    lm = kvlab.random("tiny", seed=3)
    return lm, kvlab.Cache(lm, store="static", capacity=64, batch=3)


@right
def kvlab_bfloat16() -> Any:
    return kvlab.random("tiny", seed=3, dtype="bfloat16")


@right
def kvlab_buffer_that_copies_at_every_token() -> Any:
    lm = kvlab.random("tiny", seed=3)
    return lm, kvlab.Cache(lm, store=kvlab.Dynamic(growth=1.0))


@right
def loop_over_a_cache_of_its_own() -> Callable:
    lm = kvlab.load("tiny", device="cpu")
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        return forced(step, ids, None, new)

    loop.full = lm
    return loop


@right
def loop_that_resets_its_static_cache() -> Callable:
    return static_loop(reset=True)


@right
def loop_that_remembers_prompts_by_what_they_say() -> Callable:
    """The fix of `prompts_remembered_by_their_length`."""
    known: dict[tuple[int, ...], Any] = {}
    lm = kvlab.load("tiny", device="cpu")
    step = cached(lm)

    def loop(ids: Tensor, new: list[int]) -> Tensor:
        text = tuple(ids[0].tolist())
        if text not in known:
            known[text] = step(ids[:, :-1], None)[1]
        return forced(step, ids[:, -1:], known[text].fork(), new)

    loop.full = lm
    return loop


# --- meant so: a loss is a loss and no bug ---


def lossy(**knobs: Any) -> tuple[Any, kvlab.Cache]:
    lm = kvlab.random("tiny", seed=4)
    return lm, kvlab.Cache(lm, **knobs)


LOSSY: dict[str, Callable[[], Any]] = {
    "int8": lambda: lossy(codec=kvlab.Int8()),
    "int8-static": lambda: lossy(codec=kvlab.Int8(), store="static", capacity=64),
    "sink-recent": lambda: lossy(eviction=kvlab.SinkRecent(sinks=2, recent=5)),
    "top-k": lambda: lossy(selection=kvlab.TopK(4)),
}
