"""Fork, crop, reorder, reset, and steps that end half-way: beside the parity test, the edges one by one."""

from __future__ import annotations

import pytest
import torch
from exact_members import ExactBlocks, KeepAll
from small import ids, logits_of, model, same, storages, tensors_in

from kvlab import Cache, CacheError, Int8, SinkRecent

TEXT = ids(2, 12)

KINDS = {
    "none": {"store": "none"},
    "dynamic": {},
    "static": {"store": "static", "capacity": 24, "batch": 2},
    "blocks": {"codec": ExactBlocks()},
    "own ledgers": {"eviction": KeepAll("mass")},
}
LOSSY = {
    "int8": {"codec": Int8()},
    "int8 static": {"codec": Int8(), "store": "static", "capacity": 24, "batch": 2},
    "sink + recent": {"eviction": SinkRecent(1, 6)},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_and_lossy = pytest.mark.parametrize("kind", [*KINDS, *LOSSY])
each_that_frees_nothing = pytest.mark.parametrize("kind", [*KINDS, "int8", "int8 static"])


@pytest.fixture(scope="module")
def lm():
    return model()


def filled(lm, kind: str, tokens: int = 5) -> Cache:
    cache = Cache(lm, **(KINDS | LOSSY)[kind])
    lm(TEXT[:, :tokens], cache)
    return cache


def wanted(rows: list[list[int]], last: int) -> torch.Tensor:
    return torch.stack([logits_of(row)[-last:] for row in rows])


@each_and_lossy
def test_a_fork_shares_no_storage(lm, kind: str) -> None:
    cache = filled(lm, kind, 9)
    lm(TEXT[:, :1], cache)
    twin = cache.fork()
    own = [storages([c.layers, c.ledger, c._seen, c._next, c._ids]) for c in (cache, twin)]
    assert own[0] and not own[0].keys() & own[1].keys()
    knobs = storages([cache.codec, cache.eviction, cache.selection])
    assert not knobs


@each_and_lossy
def test_a_fork_answers_as_its_original(lm, kind: str) -> None:
    cache = filled(lm, kind, 9)
    twin = cache.fork()
    assert torch.equal(lm(TEXT[:, 9:11], twin), lm(TEXT[:, 9:11], cache))
    assert (twin.nbytes, twin.tokens_seen.tolist()) == (cache.nbytes, cache.tokens_seen.tolist())


@each_and_lossy
def test_a_fork_of_an_empty_cache(lm, kind: str) -> None:
    cache = Cache(lm, **(KINDS | LOSSY)[kind])
    twin = cache.fork()
    lm(TEXT[:, :4], twin)
    assert same(lm(TEXT[:, :3], cache), wanted(TEXT[:, :3].tolist(), 3))
    assert twin.tokens_seen.tolist() == [4, 4]


@each_kind
def test_crop_to_nothing_starts_again(lm, kind: str) -> None:
    cache = filled(lm, kind)
    cache.crop(0)
    assert cache.tokens_seen.tolist() == [0, 0] and cache.tokens_stored.tolist() == [0, 0]
    assert cache.nbytes == 0
    assert same(lm(TEXT[:, 3:9], cache), wanted(TEXT[:, 3:9].tolist(), 6))


def test_crop_counts_columns_padding_included(lm) -> None:
    cache = Cache(lm)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, :2] = False
    lm(TEXT[:, :5], cache, mask)
    cache.crop(3)
    assert cache.tokens_seen.tolist() == [1, 3]
    rows = [TEXT[0, [2, 5, 6]].tolist(), TEXT[1, [0, 1, 2, 5, 6]].tolist()]
    assert same(lm(TEXT[:, 5:7], cache), wanted(rows, 2))


def test_crop_of_an_empty_cache(lm) -> None:
    cache = Cache(lm)
    cache.crop(0)
    with pytest.raises(CacheError):
        cache.crop(1)


@pytest.mark.parametrize("kind", ["none", "dynamic", "blocks", "own ledgers"])
@pytest.mark.parametrize("rows", [[1], [0, 0, 1], [1, 1, 1, 0, 0]], ids=str)
def test_reorder_may_change_the_number_of_rows(lm, kind: str, rows: list[int]) -> None:
    """One prompt for several continuations, or a beam that gives up half of its rows."""
    cache = filled(lm, kind, 7)
    cache.reorder(torch.tensor(rows))
    new = ids(len(rows), 2, seed=7)
    texts = [TEXT[row, :7].tolist() + tail for row, tail in zip(rows, new.tolist(), strict=True)]
    assert same(lm(new, cache), wanted(texts, 2))
    assert cache.tokens_seen.tolist() == [9] * len(rows)


@each_and_lossy
def test_reset_forgets_everything(lm, kind: str) -> None:
    cache = filled(lm, kind, 9)
    cache.reset()
    assert (cache.nbytes, cache.used) == (0, 0)
    fresh = Cache(lm, **(KINDS | LOSSY)[kind])
    assert torch.equal(lm(TEXT[:, 4:], cache), lm(TEXT[:, 4:], fresh))
    assert cache.tokens_seen.tolist() == [8, 8]


def test_reset_gives_back_memory_that_can_grow(lm) -> None:
    cache = filled(lm, "dynamic")
    cache.reset()
    assert cache.allocated_bytes == 0
    assert lm(TEXT[:1, :3], cache).shape[0] == 1  # and takes another batch


def test_reset_keeps_static_memory_where_it_is(lm) -> None:
    cache = filled(lm, "static")
    before = storages(cache)
    cache.reset()
    lm(TEXT[:, :3], cache)
    assert storages(cache) == before


def test_ids_may_be_overwritten_after_the_call(lm) -> None:
    cache, buffer = Cache(lm, store="none"), TEXT[:, :1].clone()
    for i in range(4):
        buffer.copy_(TEXT[:, i : i + 1])
        logits = lm(buffer, cache)
    assert same(logits, wanted(TEXT[:, :4].tolist(), 1))


def broken(lm, where: str, layer: int):
    """A hook that raises once: when the layer begins, or after its attention has settled."""

    def stop(*_) -> None:
        raise KeyboardInterrupt

    module = getattr(lm.layers[layer], where)
    return module.register_forward_pre_hook(stop)


@each_that_frees_nothing
@pytest.mark.parametrize("where", ["self_attn", "mlp"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_step_that_ends_half_way_can_be_repeated(lm, kind: str, where: str, layer: int) -> None:
    cache, untouched = filled(lm, kind), filled(lm, kind)
    for tokens in (1, 3):  # an interrupted step may be longer than the one that follows
        hook = broken(lm, where, layer)
        with pytest.raises(KeyboardInterrupt):
            lm(TEXT[:, 5 : 5 + tokens], cache)
        hook.remove()
        assert cache.tokens_seen.tolist() == [5, 5]
        assert cache.tokens_stored.tolist() == untouched.tokens_stored.tolist()
        assert cache.nbytes == untouched.nbytes
    assert torch.equal(lm(TEXT[:, 5:7], cache), lm(TEXT[:, 5:7], untouched))


@each_that_frees_nothing
@pytest.mark.parametrize("then", ["fork", "crop", "reorder", "reset"])
def test_after_an_interrupted_step_everything_else_works(lm, kind: str, then: str) -> None:
    caches = [filled(lm, kind), filled(lm, kind)]
    hook = broken(lm, "mlp", 1)
    with pytest.raises(KeyboardInterrupt):
        lm(TEXT[:, 5:9], caches[0])
    hook.remove()
    for i, cache in enumerate(caches):
        match then:
            case "fork":
                caches[i] = cache.fork()
            case "crop":
                cache.crop(3)
            case "reorder":
                cache.reorder([1, 0])
            case "reset":
                cache.reset()
    assert torch.equal(lm(TEXT[:, 5:7], caches[0]), lm(TEXT[:, 5:7], caches[1]))


def test_a_first_step_that_ends_half_way_fixes_no_batch(lm) -> None:
    cache = Cache(lm)
    hook = broken(lm, "mlp", 1)
    with pytest.raises(KeyboardInterrupt):
        lm(TEXT, cache)
    hook.remove()
    assert same(lm(TEXT[:1, :4], cache), wanted(TEXT[:1, :4].tolist(), 4))


def test_a_token_outside_the_vocabulary_leaves_the_cache_usable(lm) -> None:
    cache = filled(lm, "dynamic")
    with pytest.raises(IndexError):
        lm(torch.full((2, 3), 19), cache)
    assert same(lm(TEXT[:, 5:7], cache), wanted(TEXT[:, :7].tolist(), 2))


def test_gradients_are_not_kept(lm) -> None:
    cache = filled(lm, "dynamic")
    assert not any(t.requires_grad for t in tensors_in(cache.layers))
