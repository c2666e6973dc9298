"""`cache.forget`: the entries are gone for new tokens, and nothing else has changed."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch
from exact_members import ExactBlocks
from reference import reference_logits
from torch import Tensor

from kvlab import Cache, CacheError, SinkRecent
from kvlab.model import Config, Decoder
from kvlab.zoo.shapes import weight_shapes

CONFIG = Config(
    name="small", vocab_size=23, hidden_size=12, intermediate_size=16, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=4, layer_types=("full", "sliding", "full"),
    sliding_window=6,
)  # fmt: skip
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
OTHER = [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4]
SEEN = 8  # how many are cached before something is forgotten


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = weight_shapes(CONFIG).items()
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) / 2 for name, shape in shapes}


@pytest.fixture(scope="module")
def lm(weights: dict[str, Tensor]) -> Decoder:
    return Decoder.from_weights(CONFIG, dict(weights), dtype=torch.float64)


def expected(weights: dict[str, Tensor], text: list[int], gone: Collection[int]) -> Tensor:
    """Logits where the tokens from `SEEN` on can't attend to `gone`, by the independent plain decoder."""
    plain = {name: w.numpy() for name, w in weights.items()}
    logits = reference_logits(CONFIG, plain, text, lambda i: gone if i >= SEEN else ())
    return torch.from_numpy(logits)[SEEN:]


def cached(lm: Decoder, *texts: list[int], **knobs) -> Cache:
    cache = Cache(lm, **knobs)
    lm(torch.tensor([text[:SEEN] for text in texts]), cache)
    return cache


@pytest.mark.parametrize("gone", [[0], [SEEN - 1], [2, 3, 5], [0, 1, 2, 3, 4, 5, 6], list(range(SEEN)), []])
def test_later_tokens_no_longer_see_what_was_forgotten(lm: Decoder, weights, gone: list[int]) -> None:
    cache = cached(lm, TEXT)
    cache.forget(gone)
    assert cache.tokens_stored.tolist() == [SEEN - len(gone)]
    assert cache.tokens_seen.tolist() == [SEEN]
    logits = [lm(torch.tensor([[token]]), cache)[0, 0] for token in TEXT[SEEN:]]
    assert (torch.stack(logits) - expected(weights, TEXT, gone)).abs().max() < 1e-10


def test_all_at_once_is_one_after_the_other(lm: Decoder) -> None:
    together, apart = cached(lm, TEXT), cached(lm, TEXT)
    together.forget([1, 4])
    apart.forget([4])
    apart.forget([1])
    last = torch.tensor([TEXT[SEEN:]])
    assert torch.equal(lm(last, together), lm(last, apart))


def test_each_row_forgets_its_own(lm: Decoder, weights) -> None:
    cache = cached(lm, TEXT, OTHER)
    cache.forget(torch.tensor([[1, 6], [0, 3]]))
    logits = lm(torch.tensor([TEXT[SEEN:], OTHER[SEEN:]]), cache)
    for row, (text, gone) in enumerate([(TEXT, [1, 6]), (OTHER, [0, 3])]):
        assert (logits[row] - expected(weights, text, gone)).abs().max() < 1e-10


def test_positions_are_counted_without_padding(lm: Decoder, weights) -> None:
    cache = Cache(lm)
    ids = torch.tensor([[0, 0, *TEXT[:SEEN]]])
    lm(ids, cache, mask=torch.tensor([[False, False, *[True] * SEEN]]))
    cache.forget([2, 5])
    assert cache.tokens_stored.tolist() == [SEEN - 2]
    logits = lm(torch.tensor([TEXT[SEEN:]]), cache)
    assert (logits[0] - expected(weights, TEXT, [2, 5])).abs().max() < 1e-10


def test_the_bytes_are_freed(lm: Decoder) -> None:
    cache = cached(lm, TEXT)
    entry = cache.nbytes // SEEN
    cache.forget([0, 1, 2])
    own_ledgers = 4 * CONFIG.num_hidden_layers * CONFIG.num_key_value_heads * (SEEN - 3)
    assert cache.nbytes == entry * (SEEN - 3) + own_ledgers
    assert cache.allocated_bytes == cache.nbytes


def test_a_fork_keeps_what_the_other_forgets_and_crop_still_rolls_back(lm: Decoder) -> None:
    cache = cached(lm, TEXT)
    twin = cache.fork()
    cache.forget([3])
    assert twin.tokens_stored.tolist() == [SEEN] and cache.tokens_stored.tolist() == [SEEN - 1]
    cache.crop(5)
    assert cache.tokens_stored.tolist() == [4] and cache.tokens_seen.tolist() == [5]


@pytest.mark.parametrize("knobs", [{"codec": ExactBlocks()}, {"eviction": SinkRecent(2, 5)}])
def test_with_other_knobs(lm: Decoder, knobs) -> None:
    cache = cached(lm, TEXT, **knobs)
    before = int(cache.tokens_stored)
    cache.forget([1, 7])
    assert int(cache.tokens_stored) == before - 2
    assert lm(torch.tensor([TEXT[SEEN:]]), cache).isfinite().all()


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ([SEEN], f"row 0 holds no position {SEEN}"),
        ([1, -1], "row 0 holds no position -1"),
        (torch.tensor([[1], [2]]), r"positions \[n\] or \[1, n\], not \[2, 1\]"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_changes(lm: Decoder, positions, says: str) -> None:
    cache = cached(lm, TEXT)
    with pytest.raises(CacheError, match=says):
        cache.forget(positions)
    assert cache.tokens_stored.tolist() == [SEEN]
    assert all(layer.ledger is None for layer in cache.layers)


def test_twice_an_empty_cache_and_other_stores_are_refused(lm: Decoder) -> None:
    cache = cached(lm, TEXT)
    cache.forget([4])
    with pytest.raises(CacheError, match="holds no position 4"):
        cache.forget([4])
    with pytest.raises(CacheError, match="empty"):
        Cache(lm).forget([0])
    with pytest.raises(CacheError, match="static store cannot free"):
        cached(lm, TEXT, store="static", capacity=9).forget([0])
