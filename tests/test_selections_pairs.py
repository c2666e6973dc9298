"""Selections with every store, codec and eviction: plain attention under the same choice, or one refusal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pairs import CODECS, EVICTIONS, SELECTIONS, STORES, codec_of, lm_of, make, refusal
from test_evictions_pairs import ListLayer, ListStore, walk
from torch import Tensor

from kvlab import Cache
from kvlab import selection as selection_package
from kvlab.model.decoder import Attention, Frame
from kvlab.selection import Pattern, Pick, Selection
from kvlab.stores import Layer, View

TOLERANCE = 1e-9  # float64; entries are the same, sums are taken in another order
ROTATED = 1e-3  # codecs that turn in float32: a product of matrices rounds by how many entries are decoded
MOST = 64  # more positions than any text here has
Names = tuple[str, str | None, str | None, str]  # store, codec, eviction, selection


def pair(store: str, codec: str | None = None, eviction: str | None = None, selection: str = "") -> bool:
    """Whether two knobs work together, as each pair of the docs' tables says."""
    knobs = {} if eviction is None else {"eviction": EVICTIONS[eviction]()}
    return (
        refusal(store, codec, **knobs, **({"selection": SELECTIONS[selection]()} if selection else {}))
        is None
    )


def pairs_of(names: Names) -> set[tuple[Any, ...]]:
    """The pairs of knobs in a combination; a knob that is left out makes none."""
    knobs = [(kind, name) for kind, name in enumerate(names) if name is not None]
    return {(a, b) for i, a in enumerate(knobs) for b in knobs[i + 1 :]}


def sample() -> list[Names]:
    """Combinations in which every pair with a selection that works occurs; drawn greedily, with a seed."""
    draw = random.Random(7)
    codecs: dict[str, list[Any]] = {s: [None, *(c for c in CODECS if pair(s, c))] for s in STORES}
    evictions: dict[tuple[str, str], list[Any]] = {
        (s, x): [None, *(e for e in EVICTIONS if pair(s, None, e, x))]
        for s in STORES
        for x in SELECTIONS
        if pair(s, selection=x)
    }
    every: list[Names] = [(s, c, e, x) for (s, x), some in evictions.items() for c in codecs[s] for e in some]
    draw.shuffle(every)
    chosen, seen = [], set[Any]()
    for names in sorted(every, key=lambda names: names.count(None)):  # all four knobs first
        new = {two for two in pairs_of(names) if two[1][0] == 3} - seen
        if len(new) > 1 or (new and names[1:3].count(None) == 2):
            chosen.append(names)
            seen |= new
    for names in every:  # what is left over, one at a time
        new = {two for two in pairs_of(names) if two[1][0] == 3} - seen
        if new:
            chosen.append(names)
            seen |= new
    return chosen


SAMPLE = sample()
TURNED = [names for names in SAMPLE if names[1] and ("Hadamard" in names[1] or "TurboQuant" in names[1])]


def by_position(pick: Pick, view: View, group: int) -> Tensor:
    """What is added to the scores of each position, `[batch, kv_heads, group, MOST]`; -inf: not read."""
    slots = pick.slots().expand(-1, view.heads, -1)
    held = view.positions.expand(-1, view.heads, -1).gather(-1, slots.clamp(min=0))
    held = held.masked_fill(slots < 0, -1).long()  # [batch, kv_heads, n]
    weights = torch.zeros(1, 1, 1, 1) if pick.bias is None else pick.bias
    weights = weights.to(torch.float64).expand(*held.shape[:2], group, held.shape[2])
    added = torch.full((*held.shape[:2], group, MOST + 1), float("-inf"), dtype=torch.float64)
    at = torch.where(held < 0, MOST, held).unsqueeze(2).expand_as(weights)
    return added.scatter(-1, at, weights)[..., :MOST]


@contextmanager
def watched(selection: Selection, exact: bool) -> Iterator[list[Tensor | None]]:
    """What `choose` has picked, call by call; an index is compared with one made anew of what is held."""
    chosen: list[Tensor | None] = []
    kind = type(selection)
    original = kind.choose

    def choose(self: Any, queries: Tensor, view: View, *rest: Any) -> Pick | None:
        pick = original(self, queries, view, *rest)
        chosen.append(None if pick is None else by_position(pick, view, queries.shape[1] // view.heads))
        index = view.index
        if index is not None and exact and index.pages:
            keys, real = view.keys.read()[:, :, : index.covered], view.positions[:, :, : index.covered] >= 0
            for name, item in self.summarise(keys, real, index.constants).items():
                assert torch.allclose(index[name].double(), item.double(), atol=1e-9), f"stale: {name}"
        return pick

    with pytest.MonkeyPatch.context() as patch:
        if not isinstance(selection, Pattern):
            patch.setattr(kind, "choose", choose)
        yield chosen


def listed(selection: Selection, chosen: list[Tensor | None]) -> Any:
    """Attention as a formula over all entries, each masked where it was not chosen."""

    original = Attention._attend

    def attend(self: Attention, q: Tensor, view: View, layer: Layer, frame: Frame) -> Tensor:
        if not isinstance(layer, ListLayer):  # the encoder's
            return original(self, q, view, layer, frame)
        keys, values = view.read()  # [batch, kv_heads, slots, head_dim]
        kv_heads, tokens = keys.shape[1], q.shape[2]
        q = q.unflatten(1, (kv_heads, -1))
        held, now = view.positions.expand(-1, kv_heads, -1), frame.step.positions
        scores = torch.einsum("bhgtd,bhnd->bhgtn", q, keys) * self.scale
        if view.bias is not None:
            scores = scores + view.bias[:, :, None, None]
        apart = now[:, None, :, None] - held[:, :, None]  # [batch, kv_heads, tokens, slots]
        seen = (held[:, :, None] >= 0) & (apart >= 0) & (apart < (self.window or MOST))
        seen = seen | (now < 0)[:, None, :, None]  # padding asks, and nobody reads what it hears
        mine = selection.at(self.index)
        for heads, one in [] if mine is None else mine.runs(kv_heads):
            if one is None or (tokens > 1 and one.pattern() is None):
                continue
            if isinstance(one, Pattern):
                allowed = (
                    one.allows(now[:, None, :, None], held[:, heads, None]) & (now >= 0)[:, None, :, None]
                )
                seen[:, heads] &= allowed
            else:
                added = chosen.pop(0)
                if added is not None:
                    at = held.clamp(min=0).long()[:, :, None].expand(-1, -1, q.shape[2], -1)
                    scores = scores + added.gather(-1, at).unsqueeze(3)
        weights = scores.masked_fill(~seen.unsqueeze(2), float("-inf")).softmax(dim=-1).nan_to_num()
        return torch.einsum("bhgtn,bhnd->bhgtd", weights, values).flatten(1, 2)

    return attend


def differs(names: Names) -> tuple[float, int]:
    """Largest difference of the logits from the reference's, and the fewest entries that a layer has read."""
    store, codec, eviction, kind = names
    lm, selection = lm_of(store), SELECTIONS[kind]()
    knobs = {} if eviction is None else {"eviction": EVICTIONS[eviction]()}
    cache = make(store, codec, selection=selection, **knobs)
    with watched(selection, exact=codec is None) as chosen:
        got = walk(lm, cache)
    read = min(layer.entries_read or MOST * 4 for layer in cache.layers)
    knobs = {} if eviction is None else {"eviction": EVICTIONS[eviction]()}
    plain = Cache(lm, store=ListStore(), codec=codec and codec_of(codec), **knobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "_attend", listed(selection, chosen))
        wanted = walk(lm, plain)
    assert not chosen, f"{names}: the reference has not asked as often"
    worst = max((a - b).abs().max().item() for a, b in zip(got, wanted, strict=True))
    return worst, read


@pytest.mark.parametrize("selection", SELECTIONS)
def test_all_that_work_give_plain_attention_under_the_same_choice(selection: str) -> None:
    for names in [names for names in SAMPLE if names[3] == selection and names not in TURNED]:
        worst, read = differs(names)
        assert worst < TOLERANCE, names
        assert read < 2 * 2 * 25, f"{names}: everything was read"  # batch, KV heads, entries


def test_so_do_codecs_that_turn_in_float32() -> None:
    """Up to that rounding, which may turn a code over now and then: in nine of ten at least it does not."""
    close = [differs(names)[0] < ROTATED for names in TURNED]
    assert sum(close) >= 0.9 * len(close), [names for names, ok in zip(TURNED, close, strict=True) if not ok]


def test_every_pair_that_works_is_in_the_sample() -> None:
    found = {two for names in SAMPLE for two in pairs_of(names)}
    for selection in SELECTIONS:
        for store in STORES:
            assert (((0, store), (3, selection)) in found) == pair(store, selection=selection)
        for codec in CODECS:
            assert ((1, codec), (3, selection)) in found
        for eviction in EVICTIONS:
            works = pair("dynamic", None, eviction, selection)
            assert (((2, eviction), (3, selection)) in found) == works


def test_four_work_together_where_each_pair_does() -> None:
    """What is refused says so in one sentence, when the cache is made."""
    draw = random.Random(3)
    for selection in SELECTIONS:
        for store in STORES:
            for codec in draw.sample([None, *CODECS], 5):
                for eviction in draw.sample([None, *EVICTIONS], 3):
                    knobs: dict[str, Any] = {"selection": SELECTIONS[selection]()}
                    if eviction is not None:
                        knobs["eviction"] = EVICTIONS[eviction]()
                    why = refusal(store, codec, **knobs)
                    parts = pair(store, codec), pair(store, None, eviction), pair(store, selection=selection)
                    works = all(parts) and pair("dynamic", None, eviction, selection)
                    assert (why is None) == works, (store, codec, eviction, selection)
                    if why is not None:
                        assert why.endswith(".") and "\n" not in why and ". " not in why


def test_no_selection_is_left_out() -> None:
    public = {getattr(selection_package, name) for name in selection_package.__all__}
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Selection)}
    tried = {base for make in SELECTIONS.values() for base in type(make()).__mro__}
    assert kinds <= tried
