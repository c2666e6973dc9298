"""Multi-head latent attention: one short vector a token is cached, for all heads (DeepSeek-V2, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kvlab.model.attention import may_see
from kvlab.model.rotary import angles, rotate
from kvlab.stores.buffer import Growing


@dataclass(frozen=True)
class MLAConfig:
    """Sizes of one layer. DeepSeek-V2: hidden 5120, heads 128, head_dim 128, latent 512, rotary 64."""

    hidden: int = 64
    heads: int = 4
    head_dim: int = 16  # of the part of keys and queries that is not rotated, and of values
    latent: int = 24  # numbers of which keys and values are made
    rotary: int = 8  # numbers of the one rotated key that all heads share
    theta: float = 1e4

    def cached_numbers(self) -> int:
        """Numbers that a token leaves in the cache."""
        return self.latent + self.rotary

    def plain_numbers(self) -> int:
        """Numbers that a token would leave if the heads' keys and values were cached."""
        return self.heads * (2 * self.head_dim + self.rotary)


class MLACache:
    """`[batch, 1, tokens, latent]` and `[batch, 1, tokens, rotary]`: what all heads share."""

    def __init__(self, growth: float = 2.0):
        self.latent, self.rotary = Growing(growth), Growing(growth)

    def append(self, latent: Tensor, rotary: Tensor) -> None:
        self.latent.append(latent.unsqueeze(1))
        self.rotary.append(rotary.unsqueeze(1))

    def crop(self, tokens: int) -> None:
        """Go back to the first `tokens`."""
        self.latent.crop(tokens)
        self.rotary.crop(tokens)

    @property
    def tokens(self) -> int:
        return self.latent.used

    @property
    def nbytes(self) -> int:
        return self.latent.nbytes + self.rotary.nbytes


class MLA(nn.Module):
    """One layer of attention. `mla(x, cache)` takes the new tokens `x [batch, tokens, hidden]` only.

    With c the latent of a token, its key and value in head h are `U_h c` and `V_h c`. They are never needed:

        q · (U_h c) = (U_hᵀ q) · c        and        sum p (V_h c) = V_h (sum p c)

    so `absorbed` takes the query into the space of c once, attends there, and comes back once. Rotation would
    stand between q and U_h, and depend on the token: hence a separate key, rotated, not made from c.
    """

    frequencies: Tensor  # [rotary / 2]

    def __init__(self, config: MLAConfig, seed: int = 0, dtype: torch.dtype = torch.float64):
        super().__init__()
        c, draw = config, torch.Generator().manual_seed(seed)
        self.config = config

        def weight(*shape: int) -> nn.Parameter:
            drawn = torch.randn(*shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5
            return nn.Parameter(drawn.to(dtype), requires_grad=False)

        self.q = weight(c.heads, c.head_dim, c.hidden)
        self.q_rotary = weight(c.heads, c.rotary, c.hidden)
        self.down = weight(c.latent, c.hidden)
        self.k_rotary = weight(c.rotary, c.hidden)
        self.up_k = weight(c.heads, c.head_dim, c.latent)
        self.up_v = weight(c.heads, c.head_dim, c.latent)
        self.out = weight(c.hidden, c.heads * c.head_dim)
        self.register_buffer("frequencies", _frequencies(c), persistent=False)

    def forward(self, x: Tensor, cache: MLACache, absorbed: bool = True) -> Tensor:
        """`[batch, tokens, hidden]`; the cache has grown by these tokens. absorbed=False: keys and values of
        all heads are computed from the cache, for all tokens, at every step."""
        batch, tokens, _ = x.shape
        before = cache.tokens
        positions = torch.arange(before, before + tokens).expand(batch, -1)
        cos, sin = angles(positions.unsqueeze(1), self.frequencies, x.dtype)  # [batch, 1, tokens, rotary]
        q = torch.einsum("bth,ndh->bntd", x, self.q)
        q_rotary = rotate(torch.einsum("bth,ndh->bntd", x, self.q_rotary), cos, sin)
        k_rotary = rotate((x @ self.k_rotary.T).unsqueeze(1), cos, sin)
        cache.append(x @ self.down.T, k_rotary.squeeze(1))
        seen = torch.arange(before + tokens).expand(batch, 1, -1)
        mask = may_see(positions, seen, None)  # [batch, 1, tokens, slots]
        rotated = q_rotary @ cache.rotary.read().transpose(-1, -2)  # [batch, heads, tokens, slots]
        mix = self._absorbed if absorbed else self._plain
        mixed = mix(q, cache.latent.read(), rotated, mask)  # [batch, heads, tokens, head_dim]
        return mixed.transpose(1, 2).flatten(2) @ self.out.T

    def _plain(self, q: Tensor, latent: Tensor, rotated: Tensor, mask: Tensor) -> Tensor:
        keys = latent @ self.up_k.transpose(-1, -2)  # [batch, heads, slots, head_dim]
        values = latent @ self.up_v.transpose(-1, -2)
        return self._weights(q @ keys.transpose(-1, -2) + rotated, mask) @ values

    def _absorbed(self, q: Tensor, latent: Tensor, rotated: Tensor, mask: Tensor) -> Tensor:
        scores = (q @ self.up_k) @ latent.transpose(-1, -2) + rotated  # q in the space of the latents
        return (self._weights(scores, mask) @ latent) @ self.up_v.transpose(-1, -2)

    def _weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        scale = (self.config.head_dim + self.config.rotary) ** -0.5
        return (scores * scale).masked_fill(~mask, float("-inf")).softmax(-1)


def _frequencies(config: MLAConfig) -> Tensor:
    """Angles a position, `[rotary / 2]`."""
    return config.theta ** (-torch.arange(0, config.rotary, 2, dtype=torch.float64) / config.rotary)
