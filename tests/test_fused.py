"""A cache that uses Triton's kernels against the same one that does not: the same logits, the same bytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from scenarios import decoder
from torch import Tensor

pytest.importorskip("triton", reason="Triton is for Linux only")

import kvlab  # noqa: E402
from kvlab import Cache  # noqa: E402
from kvlab.codecs import KIVI, Int8, Quantize  # noqa: E402
from kvlab.eviction import H2O, SnapKV, StreamingLLM  # noqa: E402
from kvlab.kernels import splits  # noqa: E402
from kvlab.model import Config, Decoder, fused  # noqa: E402
from kvlab.selection import Quest, TopK  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one program after the other: as many as show that splits are put together."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(splits, "ENOUGH_PROGRAMS", 4)


def model(heads: int = 4, kv_heads: int = 2, head_dim: int = 16, window: int | None = None) -> Decoder:
    config = Config(
        name="fused", vocab_size=31, hidden_size=24, intermediate_size=20, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        layer_types=("full" if window is None else "sliding",), sliding_window=window,
    )  # fmt: skip
    lm = decoder(config, 3)
    weights = {name: p.detach().clone() for name, p in lm.named_parameters()}
    return Decoder.from_weights(config, weights, device=DEVICE, dtype=torch.float32)


def ids(batch: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, tokens), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


class Pair:
    """Two caches that differ in nothing but `kernels`, taken through the same steps."""

    def __init__(self, lm: Decoder, **knobs):
        self.lm = lm
        self.fused, self.plain = (Cache(lm, kernels=kernels, **knobs) for kernels in (True, False))

    def both(self, do: Callable[[Cache], object]) -> None:
        do(self.fused)
        do(self.plain)

    def step(self, new: Tensor, mask: Tensor | None = None) -> None:
        """The same logits, the same bytes read and held."""
        found, wanted = (self.lm(new, cache, mask) for cache in (self.fused, self.plain))
        real = slice(None) if mask is None else mask
        torch.testing.assert_close(found[real], wanted[real], atol=2e-5, rtol=2e-5)
        assert found.isfinite().all()
        assert self.fused.bytes_read == self.plain.bytes_read
        assert self.fused.nbytes == self.plain.nbytes
        assert not any("Triton)" in said for said in self.plain.explain())

    def steps(self, count: int, served: str) -> None:
        batch = len(self.fused.ledger)
        for i in range(count):
            self.step(ids(batch, 1, seed=100 + i))
            assert self.fused.explain() == [served]


class TestPacked:
    @pytest.mark.parametrize(
        ("bits", "heads", "kv_heads", "group", "residual", "sink", "tokens"),
        [(8, 4, 4, 16, 5, 0, 51), (4, 4, 2, 16, 0, 4, 34), (2, 6, 2, 16, 16, 3, 49), (4, 9, 3, 32, 7, 1, 70)],
    )
    def test_gives_the_logits_of_the_plain_path(
        self, bits: int, heads: int, kv_heads: int, group: int, residual: int, sink: int, tokens: int
    ) -> None:
        pair = Pair(model(heads, kv_heads, 32), codec=KIVI(bits, group, residual, sink))
        pair.step(ids(1, tokens))
        assert (tokens - residual - sink) % group == group - 2
        pair.steps(3, fused.PACKED)  # the second one fills a block

    def test_left_padding_and_a_batch(self) -> None:
        pair = Pair(model(), codec=KIVI(4, 16, residual=3, sink=4))
        mask = torch.ones(3, 45, dtype=torch.bool, device=DEVICE)
        mask[1, :20], mask[2, :3] = False, False
        pair.step(ids(3, 45), mask)
        pair.steps(3, fused.PACKED)

    def test_after_crop_fork_and_reorder(self) -> None:
        pair = Pair(model(), codec=KIVI(2, 16, residual=2))
        pair.step(ids(2, 70))
        pair.steps(2, fused.PACKED)
        pair.both(lambda cache: cache.crop(43))  # within a block
        pair.steps(2, fused.PACKED)
        pair.both(lambda cache: cache.reorder([1, 0, 1]))
        pair.steps(1, fused.PACKED)
        left = Pair.__new__(Pair)
        left.lm, left.fused, left.plain = pair.lm, pair.fused.fork(), pair.plain.fork()
        pair.step(ids(3, 1, seed=5))
        left.steps(2, fused.PACKED)

    def test_chunks_of_a_prompt_go_the_plain_way_and_say_so(self) -> None:
        pair = Pair(model(), codec=KIVI(4, 16, residual=0))
        pair.step(ids(1, 33))
        pair.step(ids(1, 12, seed=1))
        assert pair.fused.explain()[0] == "plain PyTorch: 12 tokens came at once, and the kernels take one"
        pair.steps(1, fused.PACKED)

    def test_a_window_is_a_mask(self) -> None:
        pair = Pair(model(window=20), codec=KIVI(4, 16, residual=2))
        pair.step(ids(2, 50))
        pair.steps(2, fused.PACKED)

    @pytest.mark.parametrize(
        "eviction", [SnapKV(40, 4), H2O(40, 8), StreamingLLM(4, 36)], ids=lambda one: type(one).__name__
    )
    def test_what_an_eviction_keeps_differs_by_head(self, eviction) -> None:
        pair = Pair(model(), codec=KIVI(4, 16, residual=2), eviction=eviction)
        pair.step(ids(2, 60))
        pair.step(ids(2, 1))
        said = pair.fused.explain()[0]
        assert said == (
            fused.PACKED if not eviction.plain_keys else fused.plain("keys are rotated when they are read")
        )

    def test_a_record_shows_what_it_showed(self) -> None:
        pair = Pair(model(), codec=KIVI(4, 16, residual=2))
        pair.step(ids(1, 40))
        found = []
        for cache in (pair.fused, pair.plain):
            with kvlab.record(pair.lm) as seen:
                pair.lm(ids(1, 1), cache)
            found.append(seen.attention[0])
        torch.testing.assert_close(*found, atol=2e-5, rtol=2e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        lm = model(head_dim=32)
        weights = {name: p.detach().clone() for name, p in lm.named_parameters()}
        lm = Decoder.from_weights(lm.config, weights, device=DEVICE, dtype=dtype)
        pair = Pair(lm, codec=KIVI(4, 16, residual=2))
        for new in (ids(1, 40), ids(1, 1)):
            found, wanted = (lm(new, cache) for cache in (pair.fused, pair.plain))
            assert float((found - wanted).norm() / wanted.norm()) < 0.02
        if dtype == torch.float16 or DEVICE.type == "cuda":
            assert pair.fused.explain() == [fused.PACKED]
        else:
            assert "interpreter computes nothing in bfloat16" in pair.fused.explain()[0]


class TestPages:
    @pytest.mark.parametrize(
        ("heads", "kv_heads", "page", "tokens"), [(4, 4, 4, 34), (6, 2, 5, 43), (9, 3, 16, 78)]
    )
    def test_gives_the_logits_of_the_plain_path(
        self, heads: int, kv_heads: int, page: int, tokens: int
    ) -> None:
        pair = Pair(model(heads, kv_heads), selection=Quest(page, pages=3, first=0))
        pair.step(ids(1, tokens))
        pair.steps(3, fused.PAGES)  # one of them fills a page

    def test_left_padding_crop_and_fork(self) -> None:
        pair = Pair(model(), selection=Quest(4, pages=3, first=0))
        mask = torch.ones(2, 41, dtype=torch.bool, device=DEVICE)
        mask[1, :17] = False
        pair.step(ids(2, 41), mask)
        pair.steps(2, fused.PAGES)
        pair.both(lambda cache: cache.crop(30))
        left = Pair.__new__(Pair)
        left.lm, left.fused, left.plain = pair.lm, pair.fused.fork(), pair.plain.fork()
        pair.steps(2, fused.PAGES)
        left.steps(2, fused.PAGES)

    def test_a_static_store_is_read_up_to_what_it_holds(self) -> None:
        pair = Pair(model(), store="static", capacity=90, selection=Quest(4, pages=3, first=0))
        pair.step(ids(1, 41))
        pair.steps(3, fused.PAGES)

    def test_a_window_and_an_eviction(self) -> None:
        pair = Pair(model(window=20), selection=Quest(4, pages=3, first=0))
        pair.step(ids(2, 50))
        pair.steps(2, fused.PAGES)
        pair = Pair(model(), selection=Quest(4, pages=3, first=0), eviction=SnapKV(40, 4))
        pair.step(ids(2, 60))
        pair.steps(2, fused.PAGES)

    def test_what_was_read_is_shown(self) -> None:
        pair = Pair(model(), selection=Quest(4, pages=3, first=0))
        pair.step(ids(2, 50))
        found = []
        for cache in (pair.fused, pair.plain):
            with kvlab.record(pair.lm) as seen:
                pair.lm(ids(2, 1), cache)
            found.append(seen.read)
        assert torch.equal(found[0][0], found[1][0])
        assert int(found[0][0][0, 0].sum()) == 3 * 4 + 3  # and 51 slots leave three behind the last page

    def test_packed_entries_are_gathered_and_that_is_said(self) -> None:
        pair = Pair(model(), codec=KIVI(4, 16, residual=2), selection=Quest(4, pages=3, first=0))
        pair.step(ids(1, 50))
        pair.step(ids(1, 1))
        why = "plain PyTorch: chosen entries are packed, and the kernel reads exact ones"
        assert pair.fused.explain() == [why]

    def test_where_all_pages_fit_packed_entries_are_decoded_in_registers(self) -> None:
        pair = Pair(model(), codec=KIVI(4, 16, residual=2), selection=Quest(4, pages=30, first=0))
        pair.step(ids(1, 40))
        pair.steps(1, fused.PACKED)


class TestWhyNot:
    @pytest.mark.parametrize(
        ("knobs", "why"),
        [
            ({}, "entries are exact, and all are read"),
            ({"codec": Int8()}, "keys packed by channel and values by token"),
            ({"codec": KIVI(3, 16, 0)}, "8, 4 or 2 bits, not 3"),
            ({"codec": (Quantize(4, "channel", 16), Quantize(8, "token", 16))}, "not 4 for keys and 8"),
            ({"codec": KIVI(4, 8, 0)}, "groups of 16, 32, 64 … tokens, not 8"),
            (
                {"codec": (Quantize(4, "channel", 16, plain_keys=True), KIVI(4, 16, 0).values)},
                "keys are rotated",
            ),
            ({"codec": KIVI(4, 16, 64)}, "nothing is packed yet"),
            ({"codec": (KIVI(4, 16).keys, None)}, "values by token"),
            (
                {"codec": (Quantize(4, "channel", 16), Quantize(4, residual=20, group_size=16))},
                "values are exact",
            ),
            ({"selection": TopK(8)}, "picks single entries"),
        ],
    )
    def test_what_no_kernel_takes_is_answered_by_the_plain_path(self, knobs: dict, why: str) -> None:
        pair = Pair(model(), **knobs)
        pair.step(ids(1, 40))
        pair.step(ids(1, 1))
        assert why in pair.fused.explain()[0], pair.fused.explain()

    @pytest.mark.parametrize(("head_dim", "said"), [(8, "not 8"), (24, "not 24")])
    def test_heads_of_other_sizes(self, head_dim: int, said: str) -> None:
        pair = Pair(model(head_dim=head_dim), codec=KIVI(4, 8, 0))
        pair.step(ids(1, 40))
        pair.step(ids(1, 1))
        assert said in pair.fused.explain()[0]

    def test_float64(self, exact: Decoder) -> None:
        cache = Cache(exact, codec=KIVI(4, 16, 0), kernels=True)
        text = ids(1, 40).cpu()
        exact(text, cache)
        exact(text[:, :1], cache)
        assert "float64" in cache.explain()[0]

    @pytest.mark.skipif(DEVICE.type == "cuda", reason="there they are used")
    def test_without_cuda_they_must_be_asked_for(
        self, tiny: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = ids(1, 40)
        caches = {
            kernels: Cache(tiny, codec=KIVI(4, 16, 0), kernels=kernels) for kernels in (None, True, False)
        }
        assert caches[None].explain() == ["no step was taken"] * 4
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        for cache in caches.values():
            tiny(text, cache)
            tiny(text[:, :1], cache)
        assert caches[None].explain()[0] == "plain PyTorch: Triton's kernels run on CUDA, not on cpu"
        assert caches[True].explain() == caches[None].explain()
        assert caches[False].explain()[0] == "plain PyTorch: the cache was made with kernels=False"

    def test_nothing_of_triton_is_imported_for_a_plain_step(self) -> None:
        code = (
            "import sys, torch, kvlab\n"
            "torch.cuda.is_available = lambda: False\n"
            "lm = kvlab.load('tiny', device='cpu')\n"
            "cache = kvlab.Cache(lm, codec=kvlab.KIVI(4, 16, 0), selection=kvlab.Quest(4, 2, 0))\n"
            "for tokens in (40, 1):\n"
            "    lm(torch.zeros(1, tokens, dtype=torch.int64), cache)\n"
            "assert not [m for m in sys.modules if m.startswith(('triton', 'kvlab.kernels.'))]\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
