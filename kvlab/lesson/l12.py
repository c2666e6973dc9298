"""Lesson 12: real keys and values, what a codec writes of them, and what the recorded bench says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kvlab
from kvlab.cache import CodecPair
from kvlab.codecs import Codec
from kvlab.measure.quality_runs import Prompt, continuation, reference, steps
from kvlab.measure.quality_texts import windows
from kvlab.measure.watch import seen_by
from kvlab.stores.stream import GrowingStream

from .chart_points import row
from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

BITS = (8, 4, 3, 2)


# --- the real entries -------------------------------------------------------------------------------------


TEXT = (
    "The lighthouse stands on a rock two miles from the shore. Until the last keeper left, three men "
    "lived in it at a time, and every fourth week one of them was relieved, if the sea allowed it. In "
    "winter it often did not. The longest wait on record is eleven weeks, and the men, who had flour, oil"
    " and tobacco enough, wrote in the log that they had run out of things to say. The lamp itself needed"
    " little work. A weight hung in the middle of the tower and turned the lens as it sank; every two "
    "hours somebody had to wind it up again, a hundred and forty turns of the handle. When fog came they "
    "lit a charge every seven minutes, day and night, until it lifted. Boats learned to count. A single "
    "flash every five seconds meant this rock, two flashes meant the harbour, and a red one meant that "
    "the pilot was out. Then the cable was laid. An electric motor turns the lens now, the weight hangs "
    "still, and a sensor decides when there is fog. Twice a year a boat brings two engineers and a box of"
    " spare parts. They stay for an afternoon, clean the glass, read the counters, and sign their names "
    "below those of the keepers in the same log. On a clear night the light can be seen from a hill "
    "behind the town, where children are told to count to five."
)


def prose(lm: Decoder, tokens: int, further: int = 0) -> tuple[Tensor, Tensor]:
    """Ids `[1, tokens]` of a text that is written here, and what comes after `[1, further]`."""
    ids = torch.tensor([lm.tokenizer.encode(TEXT)[: tokens + further]], device=lm.device)
    if ids.shape[1] < tokens + further:
        raise ValueError(f"the text has {ids.shape[1]} tokens, not {tokens + further}.")
    return ids[:, :tokens], ids[:, tokens:]


def entries(lm: Decoder, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of one text as they are cached, each `[layers, kv_heads, tokens, head_dim]`."""
    cache = kvlab.Cache(lm)
    lm(ids, cache, last_only=True)
    keys = [layer.keys.read()[0] for layer in cache.layers]
    values = [layer.values.read()[0] for layer in cache.layers]
    return torch.stack(keys), torch.stack(values)


def loudness(x: Tensor) -> Tensor:
    """How loud the loudest channel of each head is, `[layers, kv_heads]`.

    A channel's level is its mean |x| over the tokens; the loudest one is given as a multiple of the median.
    """
    level = x.abs().mean(dim=2)  # [layers, kv_heads, head_dim]
    return level.amax(-1) / level.median(-1).values


def rounded(codec: Codec, x: Tensor) -> Tensor:
    """`x [layers, kv_heads, tokens, head_dim]` written and read back."""
    return codec.decode(codec.encode(x), x.dtype)


def error(codec: Codec, x: Tensor) -> float:
    """Relative error of all numbers together: |read back - x| / |x|."""
    return float((rounded(codec, x) - x).norm() / x.norm())


def token_errors(codec: Codec, x: Tensor) -> Tensor:
    """Relative error of each token's vector, `[tokens]`: the median over layers and heads."""
    each = (rounded(codec, x) - x).norm(dim=-1) / x.norm(dim=-1)  # [layers, kv_heads, tokens]
    return each.flatten(0, 1).median(dim=0).values


def first_norm(x: Tensor) -> float:
    """The norm of token 0 over that of the median token, the median over layers and heads."""
    norms = x.norm(dim=-1)
    return float((norms[:, :, 0] / norms[:, :, 1:].median(-1).values).median())


@dataclass(frozen=True)
class Attended:
    """One text with its attention maps, by layer `[heads, tokens, tokens]`."""

    maps: list[Tensor]

    @classmethod
    def take(cls, lm: Decoder, ids: Tensor) -> Attended:
        with kvlab.record(lm) as seen:
            lm(ids, last_only=True)
        return cls([seen.attention[i][0] for i in sorted(seen.attention)])

    def received(self) -> Tensor:
        """Attention that each position gets from the second half of the text, mean of layers and heads."""
        late = self.maps[0].shape[-1] // 2
        return torch.stack([a[:, late:].mean((0, 1)) for a in self.maps]).mean(0)  # [tokens]

    def mixed_error(self, codec: Codec, values: Tensor) -> float:
        """Relative error of what attention makes of the values `[layers, kv_heads, tokens, head_dim]`.

        Each head mixes the values with its own weights, once exact, once read back.
        """
        off, whole = 0.0, 0.0
        for a, v, back in zip(self.maps, values, rounded(codec, values), strict=True):
            heads = a.shape[0] // v.shape[0]
            late = a[:, a.shape[-1] // 2 :]  # [heads, queries, tokens]
            off += float((late @ (back - v).repeat_interleave(heads, 0)).square().sum())
            whole += float((late @ v.repeat_interleave(heads, 0)).square().sum())
        return (off / whole) ** 0.5


# --- what a codec holds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """One stream behind a codec: what is read back, and the bytes of every tensor held, by what it is."""

    back: Tensor  # [batch, kv_heads, tokens, head_dim]
    exact: int  # tokens that are not encoded
    parts: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.parts.values())

    @property
    def bits(self) -> float:
        """Bits a number, everything counted."""
        return 8 * self.nbytes / self.back.numel()


NAMES = {"code": "codes", "scale": "scales", "minimum": "minima"}


def write(codec: Codec | None, x: Tensor) -> Written:
    """Put `x [batch, kv_heads, tokens, head_dim]` through the stream that the dynamic store uses."""
    stream = GrowingStream(codec)
    stream.append(x)
    stream.seal()
    parts = {NAMES.get(name, name): buffer.nbytes for name, buffer in stream.sealed.items()}
    plain = stream.first.nbytes + stream.rest.nbytes
    parts |= {"exact": plain} if plain else {}
    return Written(stream.read(), stream.first.used + stream.rest.used, parts)


def bits_per_number(codec: Codec, x: Tensor) -> float:
    """What one number costs, scales and minima included, where all tokens are encoded."""
    return 8 * sum(part.nbytes for part in codec.encode(x).values()) / x.numel()


# --- through the model ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """Greedy text behind a cache."""

    text: str
    prompt_bytes: int  # stored when the prompt was in


def say(lm: Decoder, prompt: str, codec: CodecPair, new: int) -> Said:
    """The `new` most probable tokens after `prompt`, with what a codec leaves of the cache."""
    cache = kvlab.Cache(lm, codec=codec)
    logits = lm(torch.tensor([lm.tokenizer.encode(prompt)], device=lm.device), cache, last_only=True)
    held = cache.nbytes
    found = [int(logits[0, -1].argmax())]
    while len(found) < new:
        logits = lm(torch.tensor([found[-1:]], device=lm.device), cache)
        found.append(int(logits[0, -1].argmax()))
    return Said(lm.tokenizer.decode(found), held)


def compare(
    lm: Decoder, ids: Tensor, further: Tensor, codecs: Mapping[str, CodecPair]
) -> dict[str, dict[str, Any]]:
    """The bench's continuation run on `ids [rows, tokens]` and `further [rows, tokens]`, for each codec."""
    prompt = Prompt.take(lm, ids)
    full = reference(lm, prompt, further)
    return {
        name: continuation(lm, kvlab.Cache(lm, codec=codec), prompt, further, full)
        for name, codec in codecs.items()
    }


def layer_errors(
    lm: Decoder, ids: Tensor, further: Tensor, codecs: Mapping[str, CodecPair]
) -> dict[str, list[float]]:
    """Relative error of what enters each layer and the head, while `further [1, tokens]` is decoded.

    The prompt `ids` lies in the cache as each codec leaves it; layer 0 is entered by the token itself.
    """
    prompt = Prompt.take(lm, ids)
    found = {name: _entering(lm, prompt, further, codec) for name, codec in {"": None, **codecs}.items()}
    true = found.pop("")
    return {
        name: ((x - true).norm(dim=-1) / true.norm(dim=-1)).mean(dim=1).tolist() for name, x in found.items()
    }


def _entering(lm: Decoder, prompt: Prompt, further: Tensor, codec: CodecPair) -> Tensor:
    """`[layers + 1, tokens, hidden]`."""
    cache = prompt.fill(lm, kvlab.Cache(lm, codec=codec))
    with seen_by([*lm.layers, lm.norm]) as kept:
        for _ in steps(lm, cache, further):
            pass
    return torch.stack([x[0, 0] for x in kept]).unflatten(0, (further.shape[1], -1)).transpose(0, 1)


def again(lm: Decoder, run: Recorded, method: str, codec: CodecPair) -> float:
    """The KL of the first recorded text, measured here."""
    s = row(run, method, lm.config.name)["source"]["settings"]
    # Another Python brings a slightly different corpus.
    ids = windows(lm, s["offsets"], s["tokens"] + s["further"])[:1]
    return compare(lm, ids[:, : s["tokens"]], ids[:, s["tokens"] :], {"": codec})[""]["kl"][0]
