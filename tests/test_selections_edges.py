"""Lengths that fill no page, fewer entries than k, padding, crop and fork: all selections, at random."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import _weights, lm_of
from small import ids
from test_evictions_pairs import ListStore
from test_selections_pairs import listed, watched
from torch import Tensor

from kvlab import Cache
from kvlab.model.decoder import Attention
from kvlab.selection import (
    AShape,
    BigBird,
    Buckets,
    Duo,
    Gate,
    Indexer,
    LSHSampling,
    Quest,
    Selection,
    SimHash,
    SparQ,
    Strided,
    TopK,
)

INDEXER = _weights(("query", (32, 8)), ("weight", (32, 2)), ("key", (16, 4)))
GATE = _weights(("query", (2, 16, 4)), ("key", (2, 24, 4)))
STORES: dict[str, dict[str, Any]] = {"dynamic": {}, "static": {"store": "static", "capacity": 60, "batch": 2}}


def sparq(page: int, r: int, k: int) -> SparQ:
    selection = SparQ(r, k)
    selection.page = page
    return selection


few = st.integers(1, 4)
some = st.integers(1, 12)
selections = st.one_of(
    st.builds(TopK, some),
    st.builds(Quest, some, few, first=st.integers(0, 2)),
    st.builds(sparq, some, st.integers(1, 9), some),
    st.builds(SimHash, st.sampled_from([8, 24]), some),
    st.builds(LSHSampling, few, st.integers(2, 6), st.integers(0, 3), few),
    st.builds(Buckets, st.sampled_from([2, 6, 16]), few, few),
    st.builds(lambda k, first: Indexer(k, INDEXER, first), some, st.integers(0, 2)),
    st.builds(lambda pages, page: Gate(pages, GATE, page), few, some),
    st.builds(lambda recent: Duo({(0, 1), (1, 0)}, 2, recent), some),
    st.builds(Strided, some),
    st.builds(BigBird, few, few, st.integers(0, 2), st.integers(0, 2)),
)
# With these every query reads all there is, through the same gathering as with fewer.
everything = st.one_of(
    st.builds(TopK, st.integers(40, 50)),
    st.builds(lambda page: Quest(page, 50, first=0), some),
    st.builds(lambda page, r: sparq(page, r, 50), some, few),
    st.builds(lambda bits: SimHash(bits, 50), st.sampled_from([8, 24])),
    st.builds(lambda bits: LSHSampling(bits, 3, 1, recent=50), few),
    st.builds(lambda rounds: Buckets(4, rounds, recent=50), few),
    st.builds(lambda k: Indexer(k, INDEXER), st.integers(40, 50)),
    st.builds(lambda page: Gate(50, GATE, page), some),
    st.builds(lambda sinks: AShape(sinks, 50), few),
    st.builds(lambda recent: Duo(set(), 1, recent), st.integers(40, 50)),
    st.just(Strided(1)),
)
course = {
    "prompt": st.integers(1, 22),
    "singles": st.integers(0, 6),
    "back": st.integers(0, 9),
    "more": st.integers(1, 4),
    "padding": st.integers(0, 9),
    "store": st.sampled_from(list(STORES)),
}
drawn = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def walk(lm: Any, cache: Cache, cuts: list[tuple[int, int]], padding: int) -> list[Tensor]:
    """Logits of real tokens, cut by cut; the first of row 1 are padding."""
    text = ids(2, 60)
    found = []
    for a, b in cuts:
        mask = torch.ones(2, b - a, dtype=torch.bool)
        mask[1, : max(0, padding - a)] = False
        found.append(lm(text[:, a:b], cache, mask)[mask])
    return found


def singly(a: int, b: int) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(a, b)]


@drawn
@given(selection=selections, **course)
def test_after_any_course_attention_is_over_what_was_chosen(
    selection: Selection, prompt: int, singles: int, back: int, more: int, padding: int, store: str
) -> None:
    """And an index holds what a new one over the same entries would: `watched` looks at each choice."""
    lm, padding = lm_of("dynamic"), min(padding, prompt - 1)
    cache = Cache(lm, selection=selection, **STORES[store])
    with watched(selection, exact=True) as chosen:
        walk(lm, cache, [(0, prompt)], padding)
        marks = [len(chosen)]
        for cut in singly(prompt, prompt + singles):
            walk(lm, cache, [cut], 0)
            marks.append(len(chosen))
        left = max(padding + 1, min(prompt, 2), prompt + singles - back)  # a prompt stays one
        cache.crop(left)
        del chosen[marks[max(0, left - prompt)] :]
        kept, twin = len(chosen), cache.fork()
        walk(lm, cache, [(left, left + 1)], 0)  # goes its own way, which the fork must not see
        del chosen[kept:]
        last = [(left, left + 2), *singly(left + 2, left + 2 + more)]
        got = walk(lm, twin, last, 0)
    first = [(0, min(prompt, left)), *singly(prompt, left)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "_attend", listed(selection, chosen))
        wanted = walk(lm, Cache(lm, store=ListStore()), [*first, *last], padding)[len(first) :]
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).abs().max() < 1e-9


@drawn
@given(selection=everything, **course)
def test_with_full_selection_every_path_is_dense_attention(
    selection: Selection, prompt: int, singles: int, back: int, more: int, padding: int, store: str
) -> None:
    lm, padding = lm_of("dynamic"), min(padding, prompt - 1)
    sparse, dense = Cache(lm, selection=selection, **STORES[store]), Cache(lm, **STORES[store])
    left = max(padding + 1, prompt + singles - back)
    cuts = [(0, prompt), *singly(prompt, prompt + singles)]
    last = [(left, left + 2), *singly(left + 2, left + 2 + more)]
    found = []
    for cache in (sparse, dense):
        parts = walk(lm, cache, cuts, padding)
        cache.crop(left)
        found.append([*parts, *walk(lm, cache.fork(), last, 0)])
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("store", STORES)
def test_empty_after_a_crop_to_nothing_or_a_reset(store: str) -> None:
    """The index goes with the entries: the next text is chosen from as if it were the first."""
    lm, text = lm_of("dynamic"), ids(2, 60)
    for selection in (Quest(3, 1, first=0), sparq(3, 2, 4), SimHash(8, 4), Gate(1, GATE, 3)):
        used, fresh = (Cache(lm, selection=selection, **STORES[store]) for _ in range(2))
        for empty in (lambda cache: cache.crop(0), lambda cache: cache.reset()):
            walk(lm, used, [(0, 20), *singly(20, 24)], 4)
            empty(used)
            assert sum(layer.stored_bytes(0) for layer in used.layers) == 0
            twin = fresh.fork() if store == "static" else Cache(lm, selection=selection)
            for a, b in ((30, 47), *singly(47, 52)):
                assert torch.equal(lm(text[:, a:b], used), lm(text[:, a:b], twin))
            used.reset()
