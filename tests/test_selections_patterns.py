"""Fixed patterns: who reads whom, for a prompt and for single tokens, against loops over positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import reference_logits
from small import CONFIG, ids, model, same, weights_of

from kvlab import Cache, record
from kvlab.selection import (
    AShape,
    BigBird,
    Dilated,
    FixedColumns,
    LocalWindow,
    Longformer,
    Pattern,
    Strided,
)

ALL_FULL = CONFIG.replace(name="all full", layer_types=("full",) * 3)
TOKENS = 41


def blocks_of_bigbird(i: int, j: int) -> bool:
    """Blocks of 4: own and the one before, the first; the random ones are asked one pair at a time."""
    own, other = i // 4, j // 4
    return other >= own - 1 or other == 0 or other in RANDOM[own]


BIGBIRD = BigBird(size=4, window=2, globals_=1, random=1, seed=3)
ONLY_RANDOM = BigBird(size=4, window=1, globals_=0, random=1, seed=3)
RANDOM = {
    own: {
        other
        for other in range(own)
        if bool(ONLY_RANDOM.allows(torch.tensor(4 * own), torch.tensor(4 * other)))
    }
    for own in range(TOKENS // 4 + 1)
}

# Each pattern beside what its paper says, written for one query i and one key j <= i.
CASES: dict[str, tuple[Pattern, Callable[[int, int], bool]]] = {
    "window": (LocalWindow(5), lambda i, j: i - j <= 4),
    "window of one": (LocalWindow(1), lambda i, j: i == j),
    "sinks": (AShape(2, 3), lambda i, j: j in (0, 1) or j in (i, i - 1, i - 2)),
    "dilated": (Dilated(3, 4), lambda i, j: j in (i, i - 4, i - 8)),
    "strided": (Strided(5), lambda i, j: j in range(i - 4, i + 1) or j in range(i, -1, -5)),
    "columns": (FixedColumns(6, 2), lambda i, j: j in range(i - i % 6, i + 1) or j % 6 in (4, 5)),
    "longformer": (Longformer(3, (1, 20)), lambda i, j: j > i - 3 or j in (1, 20) or i in (1, 20)),
    "bigbird": (BIGBIRD, blocks_of_bigbird),
}
each_pattern = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def lm():
    return model(config=ALL_FULL)


def wanted(allowed: Callable[[int, int], bool], text: list[int]) -> torch.Tensor:
    hidden = {i: [j for j in range(i + 1) if not allowed(i, j)] for i in range(len(text))}
    logits = reference_logits(ALL_FULL, weights_of(config=ALL_FULL), text, hidden.__getitem__)
    return torch.from_numpy(logits)


@each_pattern
@pytest.mark.parametrize(
    "store", [{}, {"store": "static", "capacity": 50, "batch": 1}], ids=["dynamic", "static"]
)
def test_a_prompt_a_chunk_and_single_tokens_follow_it(lm, name: str, store: dict) -> None:
    pattern, allowed = CASES[name]
    text = ids(1, TOKENS)
    cache = Cache(lm, selection=pattern, **store)
    parts = [lm(text[:, :23], cache), lm(text[:, 23:32], cache)]
    parts += [lm(text[:, i : i + 1], cache) for i in range(32, TOKENS)]
    assert same(torch.cat(parts, dim=1)[0], wanted(allowed, text[0].tolist()))


@each_pattern
def test_what_is_recorded_is_the_mask(lm, name: str) -> None:
    pattern, allowed = CASES[name]
    cache = Cache(lm, selection=pattern)
    with record(lm) as rec:
        lm(ids(1, 30), cache)
    mask = torch.tensor([[j <= i and allowed(i, j) for j in range(30)] for i in range(30)])
    for layer in range(3):
        assert torch.equal(rec.read[layer], mask.expand(1, 2, -1, -1))
        captured = (rec.attention[layer] * mask).sum(-1)
        assert torch.allclose(rec.captured(layer), captured)
    with record(lm) as rec:
        lm(ids(1, 1), cache)
    assert rec.read[0][0, 0, 0].nonzero().flatten().tolist() == [j for j in range(31) if allowed(30, j)]


@each_pattern
def test_left_padding_moves_nothing(lm, name: str) -> None:
    """Positions count real tokens; a padded row gives what the row alone gives."""
    text = ids(2, 30)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, :7] = False
    cache, alone = (Cache(lm, selection=CASES[name][0]) for _ in range(2))
    first = lm(text[:, :25], cache, mask[:, :25])
    assert same(first[0, 7:], lm(text[:1, 7:25], alone)[0])
    for i in range(25, 30):
        assert same(lm(text[:, i : i + 1], cache)[0], lm(text[:1, i : i + 1], alone)[0])


def test_after_a_crop_and_a_fork(lm) -> None:
    text, pattern = ids(1, TOKENS), AShape(2, 3)
    cache = Cache(lm, selection=pattern)
    lm(text, cache)
    cache.crop(19)
    twin = cache.fork()
    truth = wanted(CASES["sinks"][1], text[0].tolist())
    assert same(lm(text[:, 19:33], cache)[0], truth[19:33])
    assert same(lm(text[:, 19:20], twin)[0], truth[19:20])


def test_on_a_layer_with_a_window_both_hold(lm) -> None:
    """CONFIG's middle layer sees five tokens; a pattern takes more away, and gives nothing back."""
    gemma, text = model(), ids(1, 20)
    plain, wide, in_ring = (
        Cache(gemma),
        Cache(gemma, selection=LocalWindow(99)),
        Cache(gemma, "hybrid", selection=LocalWindow(99)),
    )
    truth = gemma(text[:, :19], plain)
    for cache in (wide, in_ring):
        assert same(gemma(text[:, :19], cache), truth)
    last = gemma(text[:, 19:], plain)
    assert same(gemma(text[:, 19:], wide), last) and same(gemma(text[:, 19:], in_ring), last)


def test_random_blocks_are_in_the_past_and_as_many() -> None:
    pattern = BigBird(size=2, window=1, globals_=0, random=3, seed=5)
    at = torch.arange(400)
    seen = pattern.allows(at[:, None], at[None]) & (at[None] <= at[:, None])
    per_row = seen.sum(-1)
    assert per_row.max() <= 2 * 4 and per_row[200:].float().mean() > 7.2
    other = BigBird(size=2, window=1, globals_=0, random=3, seed=6).allows(at[:, None], at[None])
    assert not torch.equal(other, pattern.allows(at[:, None], at[None]))


def test_one_token_reads_no_more_than_the_pattern(lm) -> None:
    cache = Cache(lm, selection=AShape(2, 5))
    lm(ids(1, 30), cache)
    lm(ids(1, 1), cache)
    entry = 2 * 2 * 4 * 8  # K and V, KV heads, head_dim, float64
    assert [layer.bytes_read for layer in cache.layers] == [7 * entry] * 3
    assert [layer.entries_read for layer in cache.layers] == [7 * 2] * 3
    assert cache.bytes_read == 3 * 7 * entry


WRONG = {
    "LocalWindow": (lambda: LocalWindow(0), "width >= 1"),
    "AShape sinks": (lambda: AShape(0, 4), "sinks >= 1"),
    "AShape recent": (lambda: AShape(4, 0), "recent >= 1"),
    "Dilated": (lambda: Dilated(4, 0), "dilation >= 1"),
    "Strided": (lambda: Strided(0), "stride >= 1"),
    "FixedColumns": (lambda: FixedColumns(4, 5), "no 5"),
    "Longformer": (lambda: Longformer(4, ()), "is LocalWindow"),
    "Longformer, negative": (lambda: Longformer(4, (-1,)), "from 0 on"),
    "BigBird": (lambda: BigBird(size=0), "size >= 1"),
    "BigBird, random": (lambda: BigBird(random=-1), "random >= 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_parameters_are_refused_at_once(name: str) -> None:
    make, says = WRONG[name]
    with pytest.raises(ValueError, match=says):
        make()
