"""Multi-head latent attention: absorbed is plain, step by step is at once, the cache holds what it says."""

from __future__ import annotations

import pytest
import torch

from kvlab.model.mla import MLA, MLACache, MLAConfig

pytestmark = pytest.mark.usefixtures("no_gradients")
SMALL = MLAConfig(hidden=20, heads=3, head_dim=6, latent=10, rotary=4)


def text(tokens: int = 12, batch: int = 2, config: MLAConfig = SMALL) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, tokens, config.hidden, generator=draw, dtype=torch.float64)


def by_hand(mla: MLA, x: torch.Tensor) -> torch.Tensor:
    """With loops and complex numbers, from the paper's equations: no cache, no absorption."""
    c = mla.config
    turn = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), mla.frequencies)
    turn = torch.polar(torch.ones_like(turn), turn)

    def rope(y: torch.Tensor) -> torch.Tensor:
        half = y.shape[-1] // 2
        z = torch.complex(y[..., :half], y[..., half:]) * turn
        return torch.cat((z.real, z.imag), -1)

    latent, shared, heads = x @ mla.down.T, rope(x @ mla.k_rotary.T), []
    future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    for h in range(c.heads):
        key = torch.cat((latent @ mla.up_k[h].T, shared), -1)
        query = torch.cat((x @ mla.q[h].T, rope(x @ mla.q_rotary[h].T)), -1)
        scores = (query @ key.transpose(1, 2) / (c.head_dim + c.rotary) ** 0.5).masked_fill(
            future, -torch.inf
        )
        heads.append(scores.softmax(-1) @ (latent @ mla.up_v[h].T))
    return torch.cat(heads, -1) @ mla.out.T


@pytest.mark.parametrize("absorbed", [True, False])
@pytest.mark.parametrize("chunks", [(12,), (1,) * 12, (5, 1, 6)], ids=str)
def test_absorbed_and_plain_are_the_paper_in_any_chunks(absorbed: bool, chunks: tuple[int, ...]) -> None:
    mla, x, cache = MLA(SMALL), text(), MLACache()
    out = torch.cat([mla(part, cache, absorbed) for part in x.split(list(chunks), dim=1)], dim=1)
    assert (out - by_hand(mla, x)).abs().max() < 1e-10


def test_the_cache_holds_a_latent_and_one_rotary_key_a_token() -> None:
    mla, x, cache = MLA(SMALL), text(), MLACache(growth=1.0)
    mla(x, cache)
    assert SMALL.cached_numbers() == 14 and SMALL.plain_numbers() == 3 * (12 + 4)
    assert cache.tokens == 12 and cache.nbytes == 2 * 12 * 14 * 8
    assert cache.latent.read().shape == (2, 1, 12, 10) and cache.rotary.read().shape == (2, 1, 12, 4)


def test_cropped_it_goes_on_as_if_nothing_had_been() -> None:
    mla, x, cache = MLA(SMALL), text(), MLACache()
    mla(x, cache)
    cache.crop(7)
    again = mla(x[:, 7:], cache)
    assert (again - by_hand(mla, x)[:, 7:]).abs().max() < 1e-10


def test_the_rotary_part_knows_the_order() -> None:
    mla, x = MLA(SMALL), text()
    swapped = x.clone()
    swapped[:, [2, 3]] = x[:, [3, 2]]
    a, b = mla(x, MLACache())[:, -1], mla(swapped, MLACache())[:, -1]
    assert (a - b).abs().max() > 1e-4
    mla.k_rotary.zero_()
    a, b = mla(x, MLACache())[:, -1], mla(swapped, MLACache())[:, -1]
    assert (a - b).abs().max() < 1e-10, "without it, the past is a bag of tokens"


def test_sizes_of_deepseek() -> None:
    from kvlab import plan

    v3 = MLAConfig(hidden=7168, heads=128, head_dim=128, latent=512, rotary=64)
    one = plan("deepseek-v3", tokens=1000, batch=1, bits=16)
    assert one.cache_bytes == 61 * 1000 * 2 * v3.cached_numbers()
    assert v3.plain_numbers() / v3.cached_numbers() > 70
