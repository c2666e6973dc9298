"""Lesson 15: in how many directions real keys and values lie, by which basis, and what that basis costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import kvlab
from kvlab.cache import CodecPair
from kvlab.codecs import Chain, Codec, LowRank, Quantize
from kvlab.codecs.base import Stream
from kvlab.codecs.calibrate import entries
from kvlab.codecs.hadamard import rotation
from kvlab.codecs.low_rank import Subspace
from kvlab.measure import calibration
from kvlab.measure.quality_texts import windows
from kvlab.model.rotary import angles, rotate

from .l12 import prose
from .l14 import Seen

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

SINK = 4  # first tokens, unlike all others: not learned from, exact in every cache here
TOKENS = 256  # of a page, behind the sinks
KINDS = ("keys before rotary", "keys after rotary", "values")


# --- texts ------------------------------------------------------------------------------------------------


def texts(lm: Decoder) -> dict[str, list[int]]:
    """Ids of two pages that no basis was learned from: one of Python's documentation, and a story."""
    docs = windows(lm, 1, SINK + TOKENS)[0].tolist()
    return {"docs": docs, "story": prose(lm, SINK + TOKENS)[0][0].tolist()}


def seen(lm: Decoder, ids: Sequence[int]) -> Seen:
    """Keys (before and after rotary) and values of one text, without its sinks."""
    return _cut(lm, entries(lm, ids))


def taught(lm: Decoder) -> Seen:
    """The same of the text that bases are learned from: 2,048 tokens of documentation, as in the bench."""
    return _cut(lm, calibration.calibrated(lm))


def _cut(lm: Decoder, pairs: Sequence[tuple[Tensor, Tensor]]) -> Seen:
    plain, values = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
    positions = torch.arange(plain.shape[2], device=plain.device).expand(1, 1, -1)
    turned = torch.empty_like(plain)
    for i, block in enumerate(lm.layers):
        frequencies = block.self_attn.frequencies
        assert isinstance(frequencies, Tensor)
        turned[i] = rotate(plain[i, None], *angles(positions, frequencies, plain.dtype))[0]
    return Seen(*(x[:, :, SINK:].cpu() for x in (plain, turned, values)))


def kind(found: Seen, name: str) -> Tensor:
    """Keys before or after rotary, or values, `[layers, kv_heads, tokens, head_dim]`."""
    return {KINDS[0]: found.plain, KINDS[1]: found.keys, KINDS[2]: found.values}[name]


# --- bases ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Basis:
    """Mean `[layers, kv_heads, head_dim]` and directions `[..., head_dim, head_dim]`, the strongest first."""

    mean: Tensor
    directions: Tensor  # orthonormal columns

    @classmethod
    def of(cls, x: Tensor, centred: bool = True) -> Basis:
        """Of each head's `x [..., tokens, dim]`: eigenvectors of XᵀX, the right singular vectors of X."""
        x = x.double()
        mean = x.mean(-2) if centred else torch.zeros_like(x[..., 0, :])
        d = x - mean.unsqueeze(-2)
        return cls(mean, torch.linalg.eigh(d.mT @ d).eigenvectors.flip(-1))

    def lost(self, x: Tensor) -> Tensor:
        """Squares that do not come back at rank 0, 1, … dim, all layers and heads together: `[dim + 1]`."""
        d = x.double() - self.mean.unsqueeze(-2)
        found = (d @ self.directions).square().sum((0, 1, 2)).cumsum(0)
        return (found[-1] - torch.cat((found.new_zeros(1), found))).clamp(min=0)

    def energy(self, x: Tensor) -> Tensor:
        """Share of the squares about the text's own mean that comes back at each rank, `[dim + 1]`.

        Below zero where the mean of another text is further away than nothing at all.
        """
        d = x.double() - x.double().mean(-2, keepdim=True)
        return 1 - self.lost(x) / d.square().sum()

    def error(self, x: Tensor) -> Tensor:
        """|come back - x| / |x| at each rank, `[dim + 1]`."""
        return (self.lost(x) / x.double().square().sum()).sqrt()

    def codec(self, stream: Stream, rank: int, plain_keys: bool) -> LowRank:
        """What a cache takes: a `Subspace` for each layer of one stream."""
        return LowRank({
            (i, stream): Subspace(b[..., :rank].float(), m.float(), 0, SINK, plain_keys)
            for i, (b, m) in enumerate(zip(self.directions, self.mean, strict=True))
        })  # fmt: skip


def mean_share(x: Tensor) -> float:
    """Share of all squares that lies in the heads' means."""
    x = x.double()
    return float(1 - (x - x.mean(-2, keepdim=True)).square().sum() / x.square().sum())


def flattered(x: Tensor, rank: int) -> dict[str, tuple[float, float]]:
    """Energy as it is counted with and without the mean, and the error, of bases of the text's own."""
    x = x.double()
    plain, centred = Basis.of(x, centred=False), Basis.of(x)
    whole = float(1 - plain.lost(x)[rank] / x.square().sum())
    return {
        "not centred": (whole, float(plain.error(x)[rank])),
        "centred": (float(centred.energy(x)[rank]), float(centred.error(x)[rank])),
    }


# --- bytes ------------------------------------------------------------------------------------------------


def basis_bytes(c: Config, keys: int, values: int) -> int:
    """Directions and mean in float16, of both streams, all layers and heads."""
    heads = c.num_hidden_layers * c.num_key_value_heads
    return 2 * heads * c.head_dim * ((keys + 1) + (values + 1))


def coordinate_bytes(c: Config, keys: int, values: int) -> int:
    """What one token leaves, in float16."""
    return 2 * c.num_hidden_layers * c.num_key_value_heads * (keys + values)


def float16_bytes(c: Config) -> int:
    """A token with nothing cut."""
    return coordinate_bytes(c, c.head_dim, c.head_dim)


def pays_from(c: Config, keys: int, values: int) -> int:
    """Tokens from which coordinates and basis together take less than float16."""
    saved = float16_bytes(c) - coordinate_bytes(c, keys, values)
    return basis_bytes(c, keys, values) // saved + 1


def held(lm: Decoder, ids: Sequence[int], codec: CodecPair) -> tuple[float, int]:
    """Bytes of each encoded token in a real cache, all layers; and what all texts share, once."""
    cache = kvlab.Cache(lm, codec=codec)
    lm(torch.tensor([list(ids)], device=lm.device), cache, last_only=True)
    streams = [stream for layer in cache.layers for stream in (layer.keys, layer.values)]
    packed = sum(part.nbytes for stream in streams for part in stream.packed().values())
    shared = {id(t): t.nbytes for stream in streams for t in stream.codec.shared_tensors()}
    return packed / (len(ids) - SINK), sum(shared.values())


# --- 4 bits behind it -------------------------------------------------------------------------------------


def in_four_bits(basis: Basis, x: Tensor, rank: int) -> dict[str, float]:
    """Relative error of `x` at this rank: coordinates in float16, in 4 bits, and in 4 bits after a rotation.

    The rotation is folded into the basis, which stays orthonormal: it costs neither bytes nor time.
    """
    spread = rotation(rank, 0, torch.device("cpu")).double()
    left = {"16 bits": 0.0, "4 bits": 0.0, "4 bits, rotated": 0.0}
    four = Quantize(4, "token", None)
    for layer, mean, directions in zip(x, basis.mean, basis.directions, strict=True):
        cut = directions[:, :, :rank]
        plain, turned = (Subspace(b.float(), mean.float()) for b in (cut, cut @ spread))
        ways: Sequence[Codec] = (plain, Chain(plain, four), Chain(turned, four))
        for name, codec in zip(left, ways, strict=True):
            back = codec.decode(codec.encode(layer[None]), torch.float32)[0]
            left[name] += float((back - layer).square().sum())
    return {name: (squares / float(x.square().sum())) ** 0.5 for name, squares in left.items()}
