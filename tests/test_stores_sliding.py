"""The stores `sliding` and `hybrid`: what rings hold, what they refuse, their bytes, the real Gemma."""

from __future__ import annotations

import pytest
import torch
from exact_members import ExactBlocks, ReadAll
from small import CONFIG, ids, logits_of, model, same, storages

import kvlab
from kvlab import Cache, CacheError, Hybrid, Int8, SinkRecent, Sliding, TopK
from kvlab.compiled import CompiledStep, has_compiler
from kvlab.model import Config
from kvlab.stores.dynamic import DynamicLayer
from kvlab.stores.sliding import RingLayer
from kvlab.stores.static import StaticLayer
from kvlab.zoo.shapes import SHAPES

WINDOW = 5
MIXED = CONFIG.replace(name="mixed", layer_types=("sliding", "full", "sliding"), sliding_window=WINDOW)
SLIDING = CONFIG.replace(name="all sliding", layer_types=("sliding",) * 3, sliding_window=WINDOW)
FULL = CONFIG.replace(name="no window", layer_types=("full",) * 3, sliding_window=None)
TEXT = ids(2, 30)
FORMS = {"grows": {}, "fixed": {"capacity": 30, "batch": 2}}
each_form = pytest.mark.parametrize("form", FORMS)
KINDS = {
    "hybrid": (MIXED, {"store": "hybrid"}),
    "hybrid, fixed": (MIXED, {"store": "hybrid", **FORMS["fixed"]}),
    "sliding": (SLIDING, {"store": "sliding"}),
    "sliding, fixed": (SLIDING, {"store": "sliding", **FORMS["fixed"]}),
    "sliding, codec": (SLIDING, {"store": "sliding", "codec": ExactBlocks(1, 0, 0)}),
    "sliding, fixed, codec": (SLIDING, {"store": "sliding", "codec": ExactBlocks(1, 0, 0), **FORMS["fixed"]}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str) -> tuple[kvlab.model.Decoder, Cache]:
    config, knobs = KINDS[kind]
    lm = model(config=config)
    return lm, Cache(lm, **knobs)


def wanted(rows: list[list[int]], last: int, config: Config) -> torch.Tensor:
    return torch.stack([logits_of(row, config=config)[-last:] for row in rows])


def held(cache: Cache, layer: int = 0) -> list[list[int]]:
    """The position in each slot, row by row; -1: free."""
    return cache.layers[layer].positions(cache.ledger)[:, 0].tolist()


class TestWhatARingHolds:
    def test_the_newest_token_takes_the_slot_of_the_oldest(self) -> None:
        lm = model(config=SLIDING)
        cache, seen = Cache(lm, store="sliding"), []
        for i in range(8):
            lm(TEXT[:1, i : i + 1], cache)
            seen += held(cache)
        assert seen == [
            [0],
            [0, 1],
            [0, 1, 2],
            [0, 1, 2, 3],
            [-1, 1, 2, 3, 4],  # four stay: with the token that comes, they make a window of five
            [5, -1, 2, 3, 4],
            [5, 6, -1, 3, 4],
            [5, 6, 7, -1, 4],
        ]

    @each_form
    def test_a_chunk_longer_than_the_window_leaves_its_end(self, form: str) -> None:
        lm = model(config=SLIDING)
        cache = Cache(lm, store="sliding", **FORMS[form])
        lm(TEXT[:, :3], cache)
        lm(TEXT[:, 3:20], cache)
        assert held(cache) == [[-1, 16, 17, 18, 19]] * 2

    @each_form
    def test_rows_have_their_own_place_under_padding(self, form: str) -> None:
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[0, [0, 1, 2, 7]] = False  # on the left, and within
        lm = model(config=SLIDING)
        cache = Cache(lm, store="sliding", **FORMS[form])
        lm(TEXT[:, :9], cache, mask)
        assert held(cache) == [[-1, 1, 2, 3, 4], [5, 6, 7, 8, -1]]
        lm(TEXT[:, 9:10], cache, torch.tensor([[True], [False]]))
        assert held(cache) == [[5, -1, 2, 3, 4], [5, 6, 7, 8, -1]]
        assert cache.tokens_stored.tolist() == [4, 4] and cache.tokens_seen.tolist() == [6, 9]
        rows = [TEXT[0, [3, 4, 5, 6, 8, 9, 10]].tolist(), TEXT[1, [*range(9), 10]].tolist()]
        assert same(lm(TEXT[:, 10:11], cache), wanted(rows, 1, SLIDING))

    def test_the_memory_that_was_allocated_stays_where_it_is(self) -> None:
        lm = model(config=MIXED)
        cache = Cache(lm, store="hybrid", **FORMS["fixed"])
        places = storages(cache.layers)
        for tokens in (3, 9, 1, 1):
            lm(TEXT[:, :tokens], cache)
        cache.reorder([1, 1])
        cache.reset()
        lm(TEXT[:, :1], cache)
        assert storages(cache.layers) == places

    def test_a_prompt_is_let_go(self) -> None:
        """After one long prompt no storage holds more than the window."""
        lm = model(config=SLIDING)
        cache = Cache(lm, store="sliding")
        lm(TEXT, cache)
        token = cache.logical_bytes // TEXT.numel()
        assert cache.allocated_bytes == sum(storages(cache.layers).values()) == 2 * WINDOW * token
        assert cache.nbytes == 2 * (WINDOW - 1) * token

    def test_layers_are_chosen_by_their_types(self) -> None:
        grows = [type(layer) for layer in Cache(model(config=MIXED), store="hybrid").layers]
        assert grows == [RingLayer, DynamicLayer, RingLayer]
        fixed = [type(layer) for layer in Cache(model(config=MIXED), store="hybrid", capacity=9).layers]
        assert fixed == [RingLayer, StaticLayer, RingLayer]
        no_window = [type(layer) for layer in Cache(model(config=FULL), store="hybrid").layers]
        assert no_window == [DynamicLayer] * 3


class TestCrop:
    @each_kind
    def test_every_length_back_to_every_other(self, kind: str) -> None:
        """Exact where all is there that the next token sees; refused, with nothing changed, elsewhere."""
        lm, _ = made(kind)
        cache = Cache(lm, **KINDS[kind][1])
        for n in range(1, 12):
            lm(TEXT[:, n - 1 : n], cache)
            for to in range(n):
                twin = cache.fork()
                if to == 0 or n < WINDOW:
                    twin.crop(to)
                else:
                    with pytest.raises(CacheError, match=f"begins at {max(0, to - 4)}.*all before {n - 4}"):
                        twin.crop(to)
                    assert (twin.used, twin.nbytes) == (cache.used, cache.nbytes)
                    assert all(map(torch.equal, _tensors(twin), _tensors(cache)))
                    to = n
                rows = [row[:to] + [7, 3, 11] for row in TEXT.tolist()]
                both = torch.cat(
                    [lm(torch.tensor([[7, 3]] * 2), twin), lm(torch.tensor([[11]] * 2), twin)], 1
                )
                assert same(both, wanted(rows, 3, lm.config))

    def test_one_row_decides_for_all(self) -> None:
        mask = torch.ones(2, 6, dtype=torch.bool)
        mask[0, :3] = False
        lm, cache = made("hybrid")
        lm(TEXT[:, :6], cache, mask)
        with pytest.raises(CacheError, match="row 1 would go on at position 4"):
            cache.crop(4)
        assert cache.tokens_seen.tolist() == [3, 6]

    def test_columns_of_padding_can_always_go(self) -> None:
        lm, cache = made("sliding")
        lm(TEXT[:, :9], cache)
        lm(TEXT[:, 9:12], cache, torch.zeros(2, 3, dtype=torch.bool))
        cache.crop(9)
        assert same(lm(TEXT[:, 9:11], cache), wanted(TEXT[:, :11].tolist(), 2, SLIDING))

    def test_a_window_of_one_keeps_nothing_and_goes_back_anywhere(self) -> None:
        config = SLIDING.replace(name="one", sliding_window=1)
        for knobs in FORMS.values():
            lm = model(config=config)
            cache = Cache(lm, store="sliding", **knobs)
            lm(TEXT[:, :9], cache)
            assert (cache.nbytes, cache.tokens_stored.tolist()) == (0, [0, 0])
            cache.crop(4)
            assert same(lm(TEXT[:, 4:6], cache), wanted(TEXT[:, :6].tolist(), 2, config))


def _tensors(cache: Cache) -> list[torch.Tensor]:
    """What it stands on: the ledger, and what its rings have in their slots."""
    rings = [layer for layer in cache.layers if isinstance(layer, RingLayer)]
    return [cache.ledger, cache._seen, cache._next, *[t for layer in rings for t in layer.tensors()]]


class TestInterruptedSteps:
    @each_kind
    @pytest.mark.parametrize("where", ["self_attn", "mlp"])
    @pytest.mark.parametrize("tokens", [1, 3, 12])
    def test_nothing_that_is_held_is_overwritten(self, kind: str, where: str, tokens: int) -> None:
        """Rings that have wrapped; layers before the one that fails have settled."""
        lm, cache = made(kind)
        _, untouched = made(kind)
        for one in (cache, untouched):
            lm(TEXT[:, :7], one)
            lm(TEXT[:, 7:8], one)
        for layer in range(3):
            hook = getattr(lm.layers[layer], where).register_forward_pre_hook(_stop)
            with pytest.raises(KeyboardInterrupt):
                lm(TEXT[:, 8 : 8 + tokens] * 0, cache)
            hook.remove()
            assert cache.tokens_stored.tolist() == untouched.tokens_stored.tolist()
            assert cache.nbytes == untouched.nbytes
            assert cache.allocated_bytes == sum(storages(cache.layers).values())
            assert held(cache) == held(untouched)
            assert torch.equal(lm(TEXT[:, 8:10], cache.fork()), lm(TEXT[:, 8:10], untouched.fork()))
            cache.reorder([1, 0])
            cache.reorder([1, 0])

    def test_before_the_ring_is_full(self) -> None:
        lm, cache = made("sliding")
        lm(TEXT[:, :2], cache)
        hook = lm.layers[1].mlp.register_forward_pre_hook(_stop)
        with pytest.raises(KeyboardInterrupt):
            lm(TEXT[:, 5:14], cache)
        hook.remove()
        cache.crop(1)
        assert same(lm(TEXT[:, 1:9], cache), wanted(TEXT[:, :9].tolist(), 8, SLIDING))


def _stop(*_) -> None:
    raise KeyboardInterrupt


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "knobs", "words"),
        [
            (MIXED, {"store": "sliding"}, 'layer 1 of mixed has none.*"hybrid"'),
            (FULL, {"store": Sliding()}, "layer 0 of no window has none"),
            (SLIDING, {"store": "sliding", "eviction": SinkRecent()}, "SinkRecent.*a ring forgets.*dynamic"),
            (MIXED, {"store": "hybrid", "codec": (ExactBlocks(), None)}, "ExactBlocks.*ring.*leave layer 0"),
            (MIXED, {"store": "hybrid", "capacity": 0}, "capacity >= 1"),
            (MIXED, {"store": "hybrid", "capacity": 9, "batch": 0}, "batch >= 1"),
            (SLIDING, {"store": "sliding", "capacity": 0}, "capacity >= 1"),
            (MIXED, {"store": Hybrid(), "capacity": 9}, "leave capacity out"),
            (MIXED, {"store": "hybrid", "capacity": 9, "eviction": SinkRecent()}, "SinkRecent"),
        ],
        ids=lambda x: x.name if isinstance(x, Config) else None,
    )
    def test_at_construction(self, config: Config, knobs: dict, words: str) -> None:
        with pytest.raises(CacheError, match=words):
            Cache(model(config=config), **knobs)

    def test_growth_below_one(self) -> None:
        for store in (Sliding, Hybrid):
            with pytest.raises(ValueError, match="growth"):
                store(growth=0.5)

    def test_a_growing_ring_cannot_be_compiled(self) -> None:
        lm, cache = made("hybrid")
        with pytest.raises(CacheError, match='"hybrid" or "sliding" with a capacity'):
            CompiledStep(lm, cache)

    def test_single_entries_of_a_ring_cannot_be_forgotten(self) -> None:
        lm, cache = made("hybrid")
        lm(TEXT[:, :6], cache)
        with pytest.raises(CacheError, match="hybrid store cannot free single entries"):
            cache.forget([4])

    @pytest.mark.parametrize("store", ["hybrid", "sliding"])
    def test_a_capacity_never_becomes_a_window(self, store: str) -> None:
        """Less than the window, and more: a text that is too long is refused, and nothing is written."""
        for capacity in (3, 9):
            config = MIXED if store == "hybrid" else SLIDING
            lm = model(config=config)
            cache = Cache(lm, store=store, capacity=capacity, batch=2)
            lm(TEXT[:, : capacity - 1], cache)
            with pytest.raises(CacheError, match=f"capacity is {capacity}"):
                lm(TEXT[:, capacity - 1 : capacity + 1], cache)
            logits = lm(TEXT[:, capacity - 1 : capacity], cache)
            assert same(logits, wanted(TEXT[:, :capacity].tolist(), 1, config))
            assert cache.remaining == 0


class TestOtherKnobs:
    @each_form
    def test_int8_is_that_of_a_dynamic_store(self, form: str) -> None:
        """Codes that the window still shows are the same codes, wherever they lie."""
        lm = model(config=MIXED)
        ring, whole = Cache(lm, store="hybrid", codec=Int8(), **FORMS[form]), Cache(lm, codec=Int8())
        for start, end in ((0, 4), (4, 5), (5, 14), (14, 15), (15, 16)):
            assert same(lm(TEXT[:, start:end], ring), lm(TEXT[:, start:end], whole))
        vector = CONFIG.num_key_value_heads * (CONFIG.head_dim + 2)
        assert ring.nbytes == 2 * 2 * vector * (16 + 2 * (WINDOW - 1))

    @pytest.mark.parametrize("codec", [None, Int8()])
    @each_form
    def test_a_selection_reads_no_more_than_it_picks(self, form: str, codec: Int8 | None) -> None:
        class Watched(TopK):
            def choose(self, *args):
                picks.append(super().choose(*args))
                return picks[-1]

        picks: list = []
        lm = model(config=SLIDING)
        cache = Cache(lm, store="sliding", codec=codec, selection=Watched(2), **FORMS[form])
        lm(TEXT[:, :12], cache)
        twin = cache.fork()
        logits = lm(TEXT[:, 12:13], cache)
        name = "exact" if codec is None else "scale"
        for layer, pick in zip(twin.layers, picks, strict=True):
            values = layer.values.parts[name]  # slot 12 % 5 takes the new token
            unread = torch.ones(values.shape[:3], dtype=torch.bool).scatter_(2, pick.rows, False)
            values[unread] = float("nan")
        assert torch.equal(lm(TEXT[:, 12:13], twin), logits)

    def test_bytes_read(self) -> None:
        lm = model(config=SLIDING)
        token = 2 * 3 * 2 * 4 * 8  # K and V, layers, KV heads, head_dim, float64
        for knobs, first in (({}, 3), ({"capacity": 30}, 3)):
            cache = Cache(lm, store="sliding", **knobs)
            lm(TEXT[:1, :3], cache)
            assert cache.bytes_read == first * token
            lm(TEXT[:1, 3:10], cache)
            assert cache.bytes_read == (3 + 7) * token
            lm(TEXT[:1, 10:11], cache)
            assert cache.bytes_read == WINDOW * token

    def test_evictions_and_blocks_may_have_the_full_layers(self) -> None:
        class Full(SinkRecent):
            def at(self, layer: int) -> SinkRecent | None:
                return self if MIXED.window(layer) is None else None

        lm = model(config=MIXED)
        cache, everything = Cache(lm, store="hybrid", eviction=Full(1, 5)), Cache(lm, eviction=Full(1, 5))
        for start, end in ((0, 9), (9, 10), (10, 16), (16, 17)):
            assert same(lm(TEXT[:, start:end], cache), lm(TEXT[:, start:end], everything))
        assert cache.tokens_stored.tolist() == [6, 6]

    def test_every_cache_generates_the_same(self) -> None:
        lm = model(config=MIXED)
        prompts = [TEXT[0, :3].tolist(), TEXT[1, :11].tolist()]
        told = [
            [one.ids for one in kvlab.generate(lm, prompts, cache, max_new_tokens=12, compile=False)]
            for cache in (
                None,
                Cache(lm, store="hybrid"),
                Cache(lm, store="hybrid", capacity=22, batch=2),
                Cache(lm, store="hybrid", selection=ReadAll()),
            )
        ]
        assert told[1:] == told[:1] * 3


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
def test_the_compiled_step_turns_the_ring() -> None:
    """Rows of different length, past the wrap, and again after a reset."""
    lm = model(config=MIXED)
    compiled, eager = (Cache(lm, store="hybrid", **FORMS["fixed"]) for _ in range(2))
    step = CompiledStep(lm, compiled)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :4] = False
    for _ in range(2):
        for cache in (compiled, eager):
            lm(TEXT[:, :6], cache, mask)
        for i in range(6, 20):
            assert same(step(TEXT[:, i : i + 1]), lm(TEXT[:, i : i + 1], eager))
        assert held(compiled) == held(eager)
        assert compiled.nbytes == eager.nbytes
        assert sum(storages(compiled.layers).values()) == compiled.allocated_bytes == eager.allocated_bytes
        compiled.reset()
        eager.reset()


# The cache of Gemma 3 270M: 15 sliding layers of 512 tokens and 3 full ones, a KV head of 256, float32. What
# does not shape the cache is small.
GEMMA = SHAPES["gemma3-270m"].replace(
    name="cache of gemma3-270m", vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=1
)
TOKEN = 2 * 256 * 4  # K and V of a token in a layer
TABLE = {  # tokens: growing, all layers full, allocated at once for so many tokens
    512: (18_843_648, 18_874_368, 18_874_368),
    1024: (21_989_376, 37_748_736, 22_020_096),
    2048: (28_280_832, 75_497_472, 28_311_552),
    4096: (40_863_744, 150_994_944, 40_894_464),
}


@pytest.fixture(scope="module")
def lm():
    return kvlab.random(GEMMA, device="cpu", dtype="float32")


class TestGemmasBytes:
    def test_the_table(self, lm) -> None:
        grows, fixed = Cache(lm, store="hybrid"), Cache(lm, store="hybrid", capacity=4096)
        for tokens, (growing, all_full, at_once) in TABLE.items():
            while grows.used < tokens:
                for cache in (grows, fixed):
                    lm(ids(1, 512, vocab=8), cache, last_only=True)
            assert grows.nbytes == growing == (15 * min(tokens, 511) + 3 * tokens) * TOKEN
            assert grows.logical_bytes == all_full == 18 * tokens * TOKEN
            assert fixed.nbytes == growing  # no form keeps more than the next token can see
            assert fixed.allocated_bytes == TABLE[4096][2]
            assert Cache(lm, store="hybrid", capacity=tokens).allocated_bytes == at_once
            assert grows.tokens_stored.tolist() == fixed.tokens_stored.tolist() == [tokens]
        assert fixed.remaining == 0 and grows.remaining is None
        whole = Cache(lm)
        lm(ids(1, 512, vocab=8), whole)
        assert whole.nbytes == TABLE[512][1]

    def test_a_step_past_the_window_adds_the_full_layers_only(self, lm) -> None:
        cache = Cache(lm, store="hybrid")
        lm(ids(1, 510, vocab=8), cache)
        grown = []
        for _ in range(4):
            before = cache.nbytes
            lm(ids(1, 1, vocab=8), cache)
            grown.append(cache.nbytes - before)
        assert grown == [18 * TOKEN, 3 * TOKEN, 3 * TOKEN, 3 * TOKEN]

    def test_no_view_holds_the_prompt(self, lm) -> None:
        """transformers keeps slices of the whole prompt's tensors until the next step; a ring does not."""
        from oracle import CONFIGS
        from transformers import DynamicCache, Gemma3TextConfig

        theirs = DynamicCache(config=Gemma3TextConfig(**CONFIGS["gemma3-270m"][1]))
        for layer in range(18):
            theirs.update(torch.zeros(1, 1, 2048, 256), torch.zeros(1, 1, 2048, 256), layer)
        tensors = [t for layer in theirs.layers for t in (layer.keys, layer.values)]
        kept = sum(t.numel() * 4 for t in tensors)
        cache = Cache(lm, store="hybrid")
        lm(ids(1, 2048, vocab=8), cache, last_only=True)
        assert cache.nbytes == kept == TABLE[2048][0]
        assert sum(storages(tensors).values()) == 18 * 2048 * TOKEN
        assert cache.allocated_bytes == (15 * 512 + 3 * 2048) * TOKEN == TABLE[2048][2]


@pytest.mark.weights
@pytest.mark.slow
def test_gemma_to_4096_tokens_as_transformers(gemma3) -> None:
    """Real text in uneven chunks, then greedy, far past the window of 512: logits and text."""
    from oracle import english, from_transformers
    from transformers import DynamicCache

    theirs = from_transformers("gemma3-270m")
    text = torch.tensor([gemma3.tokenizer.encode(english(30_000))[:4080]])
    ours, past = Cache(gemma3, store="hybrid"), DynamicCache(config=theirs.config)
    chunks = (300, 211, 1, 512, 1, 700, 513, 700, 1, 512, 629)  # up to the wrap, across it, and longer
    assert sum(chunks) == 4080 == text.shape[1]
    with torch.no_grad():
        hidden = [theirs.model(part, past_key_values=past).last_hidden_state for part in text.split(1020, 1)]
        end = 0
        for tokens in chunks:
            logits = gemma3(text[:, end : end + tokens], ours, last_only=True)
            end += tokens
            wanted = theirs.lm_head(torch.cat(hidden, 1)[:, end - 1 : end])
            assert (logits - wanted).abs().max() <= 2e-3
        for _ in range(16):
            token = wanted[:, -1].argmax(-1, keepdim=True)
            best = wanted[0, -1].topk(2).values
            assert best[0] - best[1] > 4e-3, "a near tie, which rounding decides: take another text"
            assert torch.equal(logits[:, -1].argmax(-1, keepdim=True), token)
            logits, wanted = gemma3(token, ours), theirs(token, past_key_values=past).logits
            assert (logits - wanted).abs().max() <= 2e-3
    assert ours.tokens_seen.tolist() == [4096]
    assert ours.nbytes == TABLE[4096][0]
