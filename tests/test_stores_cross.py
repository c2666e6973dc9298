"""The cross store: parity with a plain encoder–decoder, what is computed when, bytes, and refusals."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from exact_members import ExactBlocks, KeepAll, ReadAll
from small import model, storages
from translator_reference import reference_translation

import kvlab
from kvlab import Cache, CacheError, Int8
from kvlab.model import TranslatorConfig
from kvlab.model.translator import Encoded, Translator
from kvlab.stores.cross import CrossLayer, parts
from kvlab.translation.decode import batch as padded
from kvlab.zoo import weight_shapes

pytestmark = pytest.mark.usefixtures("no_gradients")

VOCAB = 23
CONFIG = TranslatorConfig(
    name="small translator", vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=4, encoder_layers=3,
)  # fmt: skip
ENTRY = 2 * 2 * 2 * 4 * 8  # K and V, layers, KV heads, head_dim, bytes of a float64: one token's entries
STORES: dict[str, dict[str, Any]] = {
    "none": {"store": "none"},
    "dynamic": {"store": "dynamic"},
    "static": {"store": "static", "capacity": 40, "batch": 3},
    "cross": {"store": "cross"},
    "cross, exact blocks": {"store": "cross", "codec": ExactBlocks()},
    "cross, keys stored plain": {"store": "cross", "codec": (ExactBlocks(1, 0, 0, plain_keys=True), None)},
    "cross, eviction and selection": {"store": "cross", "eviction": KeepAll("mass"), "selection": ReadAll()},
}


def random_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = weight_shapes(CONFIG).items()
    drawn = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in shapes}
    return {name: 1 + 0.2 * w if "norm" in name else w for name, w in drawn.items()}


@pytest.fixture(scope="module")
def lm() -> Translator:
    return Translator.from_weights(CONFIG, random_weights(), dtype=torch.float64)


def encoded(lm: Translator, batch: int = 1, source: int = 5, seed: int = 1) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    return lm.encode(torch.randint(0, VOCAB, (batch, source), generator=generator))


def expected(source: list[int], target: list[int]) -> np.ndarray:
    weights = {name: w.numpy() for name, w in random_weights().items()}
    return reference_translation(CONFIG, weights, source, target)


# --- parity ---------------------------------------------------------------------------------------------


@dataclass
class Branch:
    cache: Cache
    sources: list[list[int]]
    source: Encoded
    rows: list[list[int | None]] = field(default_factory=list)


class Player:
    """Does random things to a cache and its forks, and compares every logit with the plain model's."""

    def __init__(self, lm: Translator, knobs: dict[str, Any], seed: int):
        self.lm, self.random = lm, random.Random(seed)
        self.branches = [self.fresh(Cache(lm, **knobs))]

    def fresh(self, cache: Cache) -> Branch:
        sources = [[self.random.randrange(VOCAB) for _ in range(self.random.randint(1, 6))] for _ in range(3)]
        return Branch(cache, sources, self.encode(sources), [[] for _ in sources])

    def encode(self, sources: list[list[int]]) -> Encoded:
        """Padding on the right, on the left, or scattered; its ids are any."""
        longest = max(map(len, sources)) + self.random.randint(0, 2)
        ids = torch.randint(0, VOCAB, (len(sources), longest))
        mask = torch.zeros(len(sources), longest, dtype=torch.bool)
        for row, words in enumerate(sources):
            columns = sorted(self.random.sample(range(longest), len(words)))
            ids[row, columns], mask[row, columns] = torch.tensor(words), True
        return self.lm.encode(ids, None if mask.all() else mask)

    def play(self, moves: int = 14) -> None:
        self.append(self.branches[0], 1)
        for _ in range(moves):
            branch = self.random.choice(self.branches)
            move = self.random.choice(["step", "step", "chunk", "fork", "crop", "reorder", "renew", "stop"])
            getattr(self, f"do_{move}")(branch)
        for branch in self.branches:
            self.append(branch, 1)

    def do_step(self, branch: Branch) -> None:
        self.append(branch, 1)

    def do_chunk(self, branch: Branch) -> None:
        self.append(branch, self.random.randint(2, 4))

    def do_fork(self, branch: Branch) -> None:
        rows = [list(row) for row in branch.rows]
        self.branches.append(Branch(branch.cache.fork(), list(branch.sources), branch.source, rows))
        assert not storages(branch.cache).keys() & storages(self.branches[-1].cache).keys()

    def do_crop(self, branch: Branch) -> None:
        n = self.random.randint(0, len(branch.rows[0]))
        branch.cache.crop(n)
        branch.rows = [row[:n] for row in branch.rows]

    def do_reorder(self, branch: Branch) -> None:
        rows = [self.random.randrange(3) for _ in range(3)]
        branch.cache.reorder(rows)
        branch.rows = [list(branch.rows[row]) for row in rows]
        branch.sources = [branch.sources[row] for row in rows]
        branch.source = branch.source.select(rows)

    def do_renew(self, branch: Branch) -> None:
        branch.cache.reset()
        new = self.fresh(branch.cache)
        branch.sources, branch.source, branch.rows = new.sources, new.source, new.rows
        self.append(branch, 1)

    def do_stop(self, branch: Branch) -> None:
        block = self.lm.layers[self.random.randrange(2)]
        hook = self.random.choice([block.cross_attn, block.mlp]).register_forward_pre_hook(_stop)
        with pytest.raises(KeyboardInterrupt):
            self.lm(torch.full((3, 2), 5), branch.cache, source=branch.source)
        hook.remove()

    def append(self, branch: Branch, tokens: int) -> None:
        if branch.cache.remaining is not None and branch.cache.remaining < tokens:
            return
        ids = torch.tensor([[self.random.randrange(VOCAB) for _ in range(tokens)] for _ in range(3)])
        mask = torch.tensor([[self.random.random() > 0.2 for _ in range(tokens)] for _ in range(3)])
        held = isinstance(branch.cache.layers[0], CrossLayer) and branch.cache.source is not None
        source = None if held and self.random.random() < 0.5 else branch.source
        logits = self.lm(ids, branch.cache, None if mask.all() else mask, source=source)
        for row, words in enumerate(branch.sources):
            real = zip(ids[row].tolist(), mask[row].tolist(), strict=True)
            branch.rows[row] += [token if is_real else None for token, is_real in real]
            text = [token for token in branch.rows[row] if token is not None]
            new = int(mask[row].sum())
            if new:
                error = np.abs(logits[row, mask[row]].numpy() - expected(words, text)[-new:]).max()
                assert error <= 1e-10, f"logits are off by {error:.2g} in row {row} after {len(text)} tokens"


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", STORES)
def test_every_store_gives_the_logits_of_a_plain_encoder_decoder(
    lm: Translator, name: str, seed: int
) -> None:
    Player(lm, STORES[name], seed).play()


def test_a_chunk_after_a_rounded_source_reads_codes_and_the_first_step_does_not(lm: Translator) -> None:
    source, ids = encoded(lm), torch.tensor([[1]])
    exact, rounded = Cache(lm, store="cross"), Cache(lm, store="cross", codec=Int8())
    assert torch.equal(lm(ids, exact, source=source), lm(ids, rounded, source=source))
    error = (lm(ids, exact) - lm(ids, rounded)).abs().max()
    assert 1e-6 < error < 0.5, "Int8 rounds both parts, and not by much"
    assert parts(rounded).cross == 5 * 2 * 2 * 2 * (4 + 2), "K and V, layers, KV heads; codes and a scale"


# --- what is computed when ------------------------------------------------------------------------------


def rows_through(lm: Translator, store: str, steps: int) -> tuple[int, int]:
    """Source rows that one layer's cross k_proj has projected, and target rows of its self-attention."""
    seen = {"source": 0, "target": 0}
    block = lm.layers[0]

    def count(name: str) -> Any:
        return lambda module, args: seen.__setitem__(name, seen[name] + args[0].shape[1])

    hooks = [
        block.cross_attn.k_proj.register_forward_pre_hook(count("source")),
        block.self_attn.register_forward_pre_hook(count("target")),
    ]
    cache, source = Cache(lm, store=store), encoded(lm)
    for step in range(steps):
        lm(torch.tensor([[step]]), cache, source=source)
    for hook in hooks:
        hook.remove()
    return seen["source"], seen["target"]


def test_the_source_is_projected_once_and_the_target_once_a_step(lm: Translator) -> None:
    assert rows_through(lm, "cross", steps=7) == (5, 7)
    assert rows_through(lm, "dynamic", steps=7) == (5 * 7, 7)
    assert rows_through(lm, "none", steps=7) == (5 * 7, 7 * 8 // 2)


def test_a_record_holds_the_map_across(lm: Translator) -> None:
    cache, source = Cache(lm, store="cross"), encoded(lm)
    with kvlab.record(lm) as rec:
        lm(torch.tensor([[1, 2, 3]]), cache, source=source)
        assert rec.cross[1].shape == (1, 4, 3, 5)
        lm(torch.tensor([[4]]), cache)
    assert rec.cross[1].shape == (1, 4, 1, 5) and rec.attention[1].shape == (1, 4, 1, 4)
    assert torch.allclose(rec.cross[0].sum(-1), torch.ones(1, dtype=torch.float64))


def test_a_padded_word_gets_no_attention(lm: Translator) -> None:
    ids, mask = padded([[3, 1, 4, 1], [5, 9]])
    with kvlab.record(lm) as rec:
        lm(torch.tensor([[1], [2]]), source=lm.encode(ids, mask))
    assert rec.cross[0][1, :, :, 2:].max() == 0 < rec.cross[0][0].min()


# --- bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, source, prompt, tokens", [(1, 5, 1, 1), (2, 7, 1, 9), (3, 2, 4, 6)])
def test_both_parts_are_counted_apart_and_plan_knows_them(
    lm: Translator, batch: int, source: int, prompt: int, tokens: int
) -> None:
    cache = Cache(lm, store="cross")
    lm(torch.ones(batch, prompt, dtype=torch.int64), cache, source=encoded(lm, batch, source))
    assert parts(cache).cross == batch * source * ENTRY
    for _ in range(tokens - prompt):
        lm(torch.ones(batch, 1, dtype=torch.int64), cache)
        assert parts(cache).cross == batch * source * ENTRY, "the source's part does not grow"
    assert parts(cache).own == batch * tokens * ENTRY
    assert cache.nbytes == parts(cache).own + parts(cache).cross
    assert cache.ledger_bytes == 4 * batch * (tokens + source)
    plan = kvlab.plan(lm, tokens, batch, bits=64, store="cross", source=source, prompt=prompt, weight_bits=64)
    assert (plan.cache_bytes, plan.cross_bytes) == (cache.nbytes, parts(cache).cross)
    assert (
        plan.allocated_bytes
        == cache.allocated_bytes
        == sum(size for layer in cache.layers for size in storages(layer).values())
    )
    assert plan.step.cache_read == cache.bytes_read
    assert plan.weight_bytes == 8 * sum(p.numel() for p in lm.parameters())
    assert plan.rest_bytes == cache.ledger_bytes + 8 * 5 * 2, "five layers turn queries, two pairs each"


def test_a_step_of_the_plan_leaves_out_what_works_on_the_source_alone(lm: Translator) -> None:
    step = kvlab.plan(lm, 3, store="cross", source=5, bits=64, weight_bits=64).step
    used = [p for name, p in lm.named_parameters() if "encoder" not in name]
    used = [p for p in used if not any(p is b.cross_attn.k_proj.weight for b in lm.layers)]
    used = [p for p in used if not any(p is b.cross_attn.v_proj.weight for b in lm.layers)]
    assert step.weights == 8 * (sum(p.numel() for p in used) + 8), "and one row of the embeddings"


def test_plan_refuses_half_of_a_cross_store(lm: Translator) -> None:
    for how in ({"store": "cross"}, {"source": 4}):
        with pytest.raises(ValueError, match=r'store="cross" and source=… go together.*has one'):
            kvlab.plan(lm, 3, **how)
    with pytest.raises(ValueError, match=r"llama2-7b has none"):
        kvlab.plan("llama2-7b", 3, store="cross", source=5)


def test_whisper_has_its_published_size() -> None:
    """1,543,490,560 parameters, as the hub shows; 1,500 frames leave 245.76 MB in 16 bits."""
    plan = kvlab.plan("whisper-large-v3", 448, store="cross", source=1500)
    assert plan.model.parameters == 1_543_490_560
    assert plan.cross_bytes == 2 * 32 * 1280 * 1500 * 2
    assert plan.bytes_per_token == 2 * 32 * 1280 * 2


# --- refusals -------------------------------------------------------------------------------------------


def test_a_new_source_is_refused_until_reset(lm: Translator) -> None:
    ids, first, second = torch.tensor([[1]]), encoded(lm, seed=1), encoded(lm, seed=2)
    for store in ("cross", "dynamic", "none"):
        cache = Cache(lm, store=store)
        lm(ids, cache, source=first)
        before = cache.nbytes
        with pytest.raises(CacheError, match=r"holds another source.*reset\(\)"):
            lm(ids, cache, source=second)
        assert cache.nbytes == before and cache.tokens_seen.tolist() == [1], "nothing has changed"
        cache.crop(0)
        with pytest.raises(CacheError, match="another source"):
            lm(ids, cache, source=second)
        cache.reset()
        assert torch.equal(lm(ids, cache, source=second), lm(ids, source=second))


def test_the_same_source_read_again_is_the_same_source(lm: Translator) -> None:
    cache = Cache(lm, store="cross")
    lm(torch.tensor([[1]]), cache, source=encoded(lm))
    lm(torch.tensor([[2]]), cache, source=encoded(lm))
    assert cache.tokens_seen.tolist() == [2]


def test_other_padding_is_another_source(lm: Translator) -> None:
    cache, ids = Cache(lm, store="cross"), torch.tensor([[3, 1, 4]])
    lm(torch.tensor([[1]]), cache, source=lm.encode(ids))
    with pytest.raises(CacheError, match="another source"):
        lm(torch.tensor([[1]]), cache, source=lm.encode(ids, torch.tensor([[True, True, False]])))


def test_a_failed_first_step_leaves_an_empty_cache(lm: Translator) -> None:
    cache = Cache(lm, store="cross")
    hook = lm.layers[1].mlp.register_forward_pre_hook(_stop)
    with pytest.raises(KeyboardInterrupt):
        lm(torch.tensor([[1]]), cache, source=encoded(lm, seed=1))
    hook.remove()
    assert cache.nbytes == 0 and cache.source is None
    lm(torch.tensor([[1]]), cache, source=encoded(lm, seed=2))


def test_a_source_is_asked_for(lm: Translator) -> None:
    for store in ("cross", "dynamic", "none"):
        with pytest.raises(CacheError, match=r"pass source=lm\.encode"):
            lm(torch.tensor([[1]]), Cache(lm, store=store))
    cache = Cache(lm, store="dynamic")
    lm(torch.tensor([[1]]), cache, source=encoded(lm))
    with pytest.raises(CacheError, match="in every step unless"):
        lm(torch.tensor([[1]]), cache)


def test_rows_and_models_must_match(lm: Translator) -> None:
    with pytest.raises(CacheError, match=r"2 target row\(s\) were given with 1 source row\(s\)"):
        lm(torch.tensor([[1], [2]]), source=encoded(lm))
    wide = Encoded(torch.tensor([[1]]), torch.zeros(1, 1, 16))
    with pytest.raises(CacheError, match="encoded by another model"):
        lm(torch.tensor([[1]]), source=wide)
    with pytest.raises(CacheError, match="padding alone"):
        lm.encode(torch.tensor([[1, 2]]), torch.tensor([[False, False]]))
    with pytest.raises(CacheError, match="has no encoder"):
        Cache(model(), store="cross")
    with pytest.raises(CacheError, match="no fixed capacity"):
        Cache(lm, store="cross", capacity=9)
