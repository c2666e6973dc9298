"""The prompt under a pattern: tiles hold what is read and nothing else, and the rest is never touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CONFIG, ids, model

from kvlab import Cache
from kvlab.model import flex
from kvlab.model.sparse_prefill import tiles
from kvlab.selection import AShape, BigBird, Dilated, FixedColumns, LocalWindow, Longformer, Pattern, Strided

patterns = st.one_of(
    st.builds(LocalWindow, st.integers(1, 40)),
    st.builds(AShape, st.integers(1, 9), st.integers(1, 30)),
    st.builds(Dilated, st.integers(1, 9), st.integers(1, 7)),
    st.builds(Strided, st.integers(1, 20)),
    st.builds(FixedColumns, st.integers(5, 20), st.integers(1, 5)),
    st.builds(Longformer, st.integers(1, 20), st.lists(st.integers(0, 99), min_size=1, max_size=3)),
    st.builds(BigBird, st.integers(1, 9), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2)),
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    pattern=patterns,
    past=st.integers(0, 70),
    new=st.integers(1, 90),
    padding=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_tiles_are_the_mask_cut_up(pattern: Pattern, past: int, new: int, padding: int, seed: int) -> None:
    """Pasted together they are the dense mask; each slot of a tile is read by one of its queries."""
    asked = torch.cat((torch.full((min(padding, new - 1),), -1), torch.arange(new)))[:new]
    asked = torch.where(asked >= 0, asked + past, -1)
    held = torch.cat((torch.arange(past), asked))
    held = held[torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))]
    dense = (
        pattern.allows(asked[:, None], held) & (held <= asked[:, None]) & (held >= 0) & (asked >= 0)[:, None]
    )
    pasted, queries = torch.zeros_like(dense), []
    for tile in tiles(pattern, asked, held):
        assert bool(tile.mask.any(dim=0).all()), "a slot is gathered that no query of the tile reads"
        pasted[tile.queries[:, None], tile.slots] = tile.mask
        queries += tile.queries.tolist()
    assert sorted(queries) == (asked >= 0).nonzero().flatten().tolist()
    assert torch.equal(pasted, dense)


def test_what_no_query_reads_is_never_touched() -> None:
    """A chunk whose window is behind the hole: whatever lies in the hole, the logits stay."""
    lm, text = model(config=CONFIG.replace(layer_types=("full",) * 3)), ids(1, 60)
    cache = Cache(lm, selection=AShape(4, 10))
    lm(text[:, :45], cache)
    spoilt = cache.fork()
    for layer in spoilt.layers:
        for stream in (layer.keys, layer.values):
            stream.rest.data[:, :, 4:36] = float("nan")
    assert torch.equal(lm(text[:, 45:], spoilt), lm(text[:, 45:], cache))


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        (LocalWindow(64), 2 * 64),
        (AShape(4, 60), 2 * 64 + 4),
        (Strided(32), 16 * 32 + 32),
        (BigBird(16, 4, 1, 2), 6.2 * 16 + 16),
    ],
    ids=["window", "sinks", "strided", "bigbird"],
)
def test_entries_grow_with_the_prompt_and_not_with_its_square(pattern: Pattern, most: float) -> None:
    at = torch.arange(2048)
    for tile in tiles(pattern, at, at):
        assert len(tile.slots) <= most + len(at) / getattr(pattern, "stride", np.inf)


def test_padding_rows_are_zero_and_finite() -> None:
    lm, text = model(), ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    logits = lm(text, Cache(lm, selection=LocalWindow(3)), mask)
    assert bool(logits.isfinite().all())


def test_a_prompt_counts_what_its_tiles_gather() -> None:
    lm = model(config=CONFIG.replace(layer_types=("full",) * 3))
    cache, pattern = Cache(lm, selection=LocalWindow(10)), LocalWindow(10)
    lm(ids(1, 200), cache)
    at = torch.arange(200)
    slots = sum(len(tile.slots) for tile in tiles(pattern, at, at))
    assert [layer.entries_read for layer in cache.layers] == [2 * slots] * 3
    assert cache.layers[0].bytes_read == slots * 2 * 2 * 4 * 8  # K and V, KV heads, head_dim, float64
    assert slots < 200 * 2


@pytest.mark.parametrize(
    "pattern",
    [AShape(4, 30), BigBird(16, 2, 1, 1), Strided(16), Longformer(20, (0, 40)), FixedColumns(32, 3)],
)
def test_flex_attention_gives_the_same(monkeypatch, pattern: Pattern) -> None:
    """In plain PyTorch here, which its CUDA kernel has to match; blocks without a pair are left out."""
    lm = model(config=CONFIG.replace(layer_types=("full",) * 3))
    text = ids(1, 300)
    cache = Cache(lm, selection=pattern)
    wanted = lm(text, cache)
    calls = []
    monkeypatch.setattr(flex, "runs", lambda q: calls.append(q.shape) or True)
    flexed = Cache(lm, selection=pattern)
    assert (lm(text, flexed) - wanted).abs().max() < 1e-10 and len(calls) == 3
    if isinstance(pattern, AShape):  # own block, the one before, and the first
        at = torch.arange(4096)
        blocks = flex.blocks_of(pattern, 4096, None, at.device)
        assert flex.entries_of(blocks) == 128 * (1 + 2 + 30 * 3)
