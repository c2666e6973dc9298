"""Lesson 18, SparQ's channels: the same choice and scores as the package's, and what the caption says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.lesson import l18, l18_sparq
from kvlab.selection import SparQ
from kvlab.stores.base import Step, View
from kvlab.stores.index import Index
from kvlab.stores.none import Passing

pytestmark = pytest.mark.usefixtures("no_gradients")
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def made(tokens: int = 48) -> l18.Scene:
    """Random queries and keys in three layers, two KV heads of two; the last query sees all."""
    draw = torch.Generator().manual_seed(3)
    queries = torch.randn(3, 2, 2, 1, 8, generator=draw) * torch.arange(1, 9)
    keys = torch.randn(3, 2, tokens, 8, generator=draw)
    return l18.Scene(queries, keys, torch.empty(0), torch.ones(1, tokens, dtype=torch.bool))


def test_the_channels_are_those_of_the_largest_sums() -> None:
    given = made()
    found = l18_sparq.channels(given, 2, 1, r=3, k=5, counts=(1, 8))
    q = given.queries[2, 1, :, 0].abs().sum(dim=0)
    assert torch.equal(found.size, q)
    assert found.read.tolist() == sorted(range(8), key=lambda c: -float(q[c]))[:3]


def test_scores_from_some_channels_are_cooled_by_what_they_hold() -> None:
    given = made()
    found = l18_sparq.channels(given, 1, 0, r=3, k=5, counts=(8,))
    for head in range(2):
        q = given.queries[1, 0, head, 0]
        share = float(q[found.read].abs().sum() / q.abs().sum())
        by_hand = given.keys[1, 0][:, found.read] @ q[found.read] / (8 * share) ** 0.5
        assert torch.allclose(found.guess[head], by_hand, atol=1e-5)
        assert torch.allclose(found.true[head], given.keys[1, 0] @ q / 8**0.5, atol=1e-5)


def test_all_channels_find_all_and_large_ones_more_than_any() -> None:
    found = l18_sparq.channels(made(), 0, 0, r=4, k=8, counts=(1, 2, 4, 8))
    assert found.found[-1] == found.drawn[-1] == 1.0
    assert all(large > drawn for large, drawn in list(zip(found.found, found.drawn, strict=True))[:-1])


def test_the_package_picks_the_best_of_these_scores() -> None:
    """`SparQ.choose` over an index, as a cache calls it, against the scores that the figure shows."""
    given = made()
    sparq, at = SparQ(r=3, k=6), torch.arange(48).view(1, 1, 48)
    for layer in range(3):
        keys = given.keys[layer][None]
        view = View(Passing(keys), Passing(keys), at, index=Index(sparq))
        assert view.index is not None
        view.index.update(keys, at, 48)
        step = Step(torch.zeros(1, 1), torch.tensor([[47]]), torch.tensor([47]), at, True)
        q = given.queries[layer].reshape(1, 4, 1, 8)
        pick = sparq.choose(q, view, torch.ones(1, 1, 1, 48, dtype=torch.bool), 8**-0.5, step)
        for head in range(2):
            guess = l18_sparq.channels(given, layer, head, r=3, k=6, counts=(8,)).guess
            best = guess.softmax(dim=-1).sum(dim=0).topk(6).indices.sort().values
            assert pick is not None and torch.equal(pick.rows[0, head], best)


def test_the_figure_plots_its_data() -> None:
    found = l18_sparq.channels(made(), 2, 1, r=3, k=5, counts=(1, 4, 8))
    size, scores, recalls = l18_sparq.channels_figure(found, "a head").axes
    assert [bar.get_height() for bar in size.patches] == found.size.tolist()
    blue = {i for i, bar in enumerate(size.patches) if bar.get_facecolor() != size.patches[0].get_facecolor()}
    assert blue in (set(found.read.tolist()), set(range(8)) - set(found.read.tolist()))
    assert scores.lines[0].get_xdata().tolist() == found.true.flatten().tolist()
    assert scores.lines[0].get_ydata().tolist() == found.guess.flatten().tolist()
    assert [line.get_ydata().tolist() for line in recalls.lines] == [found.found, found.drawn]
    assert recalls.lines[0].get_xdata().tolist() == [1, 4, 8]


@pytest.mark.weights
def test_what_the_caption_says() -> None:
    lm = kvlab.load("smollm2-135m")
    some = l18_sparq.channels(l18.scene(lm, l18.text(lm, 512), 64), 18, 2, 16, 51, COUNTS)
    assert sorted(some.read[:4].tolist()) == [30, 31, 62, 63]
    largest = some.size.sort(descending=True).values
    assert largest[3] > 1.1 * largest[4]  # "four channels tower above the others"
    assert float(some.size[some.read].sum() / some.size.sum()) == pytest.approx(0.62, abs=0.005)
    slow = lm.blocks()[18].self_attn.frequencies.argsort()[:2]  # angles a position, of the pairs i and i + 32
    assert sorted(slow.tolist()) == [30, 31]
    low = some.true < some.true.median()
    assert float((some.guess < some.true)[low].float().mean()) > 0.95  # "low scores come out lower still"
    assert dict(zip(COUNTS, some.found, strict=True))[16] == pytest.approx(0.76, abs=0.01)
    assert dict(zip(COUNTS, some.drawn, strict=True))[16] < 0.45
    path = Path(__file__).parents[1] / "notebooks" / "18_dynamic_sparse_attention.ipynb"
    cells = {cell["id"]: cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}
    caption = " ".join("".join(cells["c18-sparq-found"]["source"]).split())
    for words in ("30 and 62, 31 and 63", "hold .62 of it", "find three quarters", "fewer than half"):
        assert words in caption
