"""The same walk through a cache for any codec: chunks, padding, decoding, crop, fork, reorder."""

from __future__ import annotations

from dataclasses import replace

import torch
from small import CONFIG, ids, model
from torch import Tensor

from kvlab import Cache
from kvlab.codecs import Codec, Packed
from kvlab.codecs.ragged import Ragged

WIDE = replace(CONFIG, name="wide", head_dim=8)  # bitmaps have whole bytes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def size(packed: Packed, *names: str) -> int:
    """Bytes of some parts, or of all."""
    chosen = [part for name, part in packed.items() if not names or name in names]
    return sum(p.nbytes if isinstance(p, Ragged) else p.numel() * p.element_size() for p in chosen)


class Dense(Codec):
    """What another codec gives back, stored as plain numbers: the same values without any packing."""

    def __init__(self, of: Codec):
        self.of, self.block, self.plain_keys = of, of.block, of.plain_keys
        self.residual, self.sink = of.residual, of.sink

    def encode(self, x: Tensor) -> Packed:
        back = self.of.decode(self.of.encode(x), torch.float64)
        return {"dense": back.unflatten(2, (-1, self.block))}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return packed["dense"].flatten(2, 3).to(dtype)


class DensePair(Codec):
    """`Dense` of what a choice of codecs chooses."""

    def __init__(self, of: Codec):
        self.of = of

    def at(self, layer: int, stream: str) -> Codec | None:
        codec = self.of.at(layer, stream)
        return None if codec is None else Dense(codec)

    encode = decode = None


DensePair.__abstractmethods__ = frozenset()


def walk(cache: Cache, lm) -> list[Tensor]:
    """Logits along a walk that takes every path of a stream."""
    text = ids(2, 60)
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[1, :5] = False  # left padding
    out = [lm(text[:, :17], cache, mask=mask), lm(text[:, 17:20], cache)]
    out += [lm(text[:, i : i + 1], cache) for i in range(20, 30)]
    twin = cache.fork()
    cache.crop(23)  # inside a block, for most
    out += [lm(text[:, 23:31], cache), lm(text[:, 31:32], cache)]
    cache.reorder([1, 0])
    out += [lm(text[:, i : i + 1], cache) for i in range(32, 36)]
    cache.crop(2)  # before the first block
    out.append(lm(text[:, 40:60], cache))
    out.append(lm(text[:, 50:51], cache))
    out.append(lm(text[:, 30:32], twin))  # the fork knows nothing of all that
    return out


def same_walk(codec: Codec) -> None:
    """Through the packed codec the logits are those of its values stored plainly.

    To rounding in float32: a matrix product rounds otherwise for other numbers of rows.
    """
    lm = model(config=WIDE)
    packed = walk(Cache(lm, codec=codec), lm)
    plain = walk(Cache(lm, codec=DensePair(codec)), lm)
    exact = walk(Cache(lm), lm)
    for i, (a, b) in enumerate(zip(packed, plain, strict=True)):
        assert torch.allclose(a, b, rtol=0, atol=1e-6), f"step {i} differs by {(a - b).abs().max()}"
    assert torch.equal(packed[0], exact[0]), "a prompt attends to itself exactly"
    if not all(c is None or c.exact for c in (codec.at(0, "keys"), codec.at(0, "values"))):
        assert any(not torch.equal(a, b) for a, b in zip(packed, exact, strict=True)), "nothing was encoded"
