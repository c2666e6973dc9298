"""Triton kernels against plain PyTorch, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is for Linux only")

from kvlab.codecs.quantize import Quantize  # noqa: E402
from kvlab.kernels import pages as of_pages  # noqa: E402
from kvlab.kernels import quantized as of_codes  # noqa: E402
from kvlab.kernels import splits  # noqa: E402
from kvlab.model.attention import attend  # noqa: E402


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one program after the other: as many as show that splits are put together."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(splits, "ENOUGH_PROGRAMS", 24)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


NO_ROWS = torch.zeros(1, 1, 0, dtype=torch.int64)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


class TestPages:
    @pytest.mark.parametrize("slots", [16, 100, 333])
    @pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (9, 3)])
    def test_is_the_softmax_over_the_chosen_pages(self, slots: int, heads: int, kv_heads: int) -> None:
        q = drawn(0, 2, heads, 1, 32)
        k, v = drawn(1, 2, kv_heads, slots, 32), drawn(2, 2, kv_heads, slots, 32)
        visible = torch.ones(2, 1, slots, dtype=torch.bool)
        visible[1, :, : slots // 3] = False  # left padding
        liking = drawn(3, 2, kv_heads, -(-slots // 16))
        liking[..., -1] = 9.0  # the last page, perhaps cut short: every row sees something
        pages, rows = liking.topk(min(5, liking.shape[-1]), dim=-1).indices, NO_ROWS
        q, k, v, pages, rows, visible = (t.to(DEVICE) for t in (q, k, v, pages, rows, visible))
        found = of_pages.attend_pages(q, k, v, pages, 16, rows, visible, 0.2)
        exact = (t.double() for t in (q, k, v))
        wanted = of_pages.attend_pages_reference(*exact, pages, 16, rows, visible, 0.2)
        assert relative(found, wanted) < 1e-5

    def test_all_pages_are_all_of_attention(self) -> None:
        q, k, v = drawn(0, 1, 4, 1, 16), drawn(1, 1, 2, 80, 16), drawn(2, 1, 2, 80, 16)
        pages, visible = torch.arange(5).expand(1, 2, 5), torch.ones(1, 1, 80, dtype=torch.bool)
        q, k, v, pages, rows, visible = (t.to(DEVICE) for t in (q, k, v, pages, NO_ROWS, visible))
        found = of_pages.attend_pages(q, k, v, pages, 16, rows, visible, 0.3)
        assert relative(found, attend(q, k, v, None, 0.3)) < 1e-5

    @pytest.mark.parametrize(("page", "count"), [(16, 2), (12, 3), (5, 0)])
    def test_single_slots_come_beside_pages_of_any_size(self, page: int, count: int) -> None:
        """And what is visible may differ by KV head."""
        q, k, v = drawn(0, 2, 4, 1, 16), drawn(1, 2, 2, 90, 16), drawn(2, 2, 2, 90, 16)
        pages = torch.arange(count).expand(2, 2, count)
        rows = torch.tensor([[[70, 71, 89], [60, 61, 62]]] * 2)
        visible = drawn(3, 2, 2, 90) > -0.5
        q, k, v, pages, rows, visible = (t.to(DEVICE) for t in (q, k, v, pages, rows, visible))
        found = of_pages.attend_pages(q, k, v, pages, page, rows, visible, 0.3)
        wanted = of_pages.attend_pages_reference(q, k, v, pages, page, rows, visible, 0.3)
        assert relative(found, wanted) < 1e-5
        only = torch.zeros_like(visible)
        only[:, :, 89] = True  # nothing else: the first KV head reads it, the second has not chosen it
        found = of_pages.attend_pages(q, k, v, pages, page, rows, only, 0.3)
        assert relative(found[:, :2], v[:, :1, 89:].expand(2, 2, 1, 16)) < 1e-5
        assert not found[:, 2:].any()

    def test_reads_a_part_of_a_larger_buffer(self) -> None:
        """As a growing store hands it over: a view with slack behind every head."""
        q, k, v = drawn(0, 2, 4, 1, 16), drawn(1, 2, 2, 96, 16), drawn(2, 2, 2, 96, 16)
        pages, visible = torch.tensor([[[0, 2], [1, 4]]] * 2), torch.ones(2, 1, 70, dtype=torch.bool)
        q, k, v, pages, rows, visible = (t.to(DEVICE) for t in (q, k, v, pages, NO_ROWS, visible))
        views = k[:, :, :70], v[:, :, :70]
        found = of_pages.attend_pages(q, *views, pages, 16, rows, visible, 0.3)
        assert (
            relative(found, of_pages.attend_pages_reference(q, *views, pages, 16, rows, visible, 0.3)) < 1e-5
        )

    def test_what_it_cannot_take_is_said(self) -> None:
        q, k = drawn(0, 1, 2, 1, 24), drawn(1, 1, 2, 32, 24)
        pages, visible = torch.zeros(1, 2, 1, dtype=torch.int64), torch.ones(1, 1, 32, dtype=torch.bool)
        rows = NO_ROWS
        with pytest.raises(ValueError, match="a power of two, not 24"):
            of_pages.attend_pages(q, k, k, pages, 16, rows, visible, 1.0)
        q, k = drawn(0, 1, 2, 1, 16), drawn(1, 1, 32, 2, 16).transpose(1, 2)
        with pytest.raises(ValueError, match="contiguous"):
            of_pages.attend_pages(q, k, k, pages, 16, rows, visible, 1.0)


class TestQuantized:
    @pytest.mark.parametrize(
        ("bits", "heads", "kv_heads", "group", "tokens", "exact"),
        [(8, 4, 4, 32, 96, 5), (4, 4, 4, 32, 96, 5), (2, 4, 4, 32, 96, 5), (4, 8, 2, 16, 32, 0),
         (4, 9, 3, 32, 192, 64), (2, 9, 3, 16, 48, 1)],
    )  # fmt: skip
    def test_is_attention_over_what_the_codes_decode_to(
        self, bits: int, heads: int, kv_heads: int, group: int, tokens: int, exact: int
    ) -> None:
        q = drawn(0, 2, heads, 1, 64)
        k, v = drawn(1, 2, kv_heads, tokens, 64), drawn(2, 2, kv_heads, tokens + 7, 64)
        visible = torch.ones(2, 1, tokens + exact, dtype=torch.bool)
        visible[1, :, : tokens // 2] = False  # left padding
        keys = Quantize(bits, "channel", group).encode(k.to(DEVICE))
        values = Quantize(bits, "token", group).encode(v.to(DEVICE))  # some more than keys, as KIVI has
        inputs = (keys, values, bits, drawn(3, 2, kv_heads, exact, 64).to(DEVICE),
                  drawn(4, 2, kv_heads, exact, 64).to(DEVICE), visible.to(DEVICE), 0.125)  # fmt: skip
        found = of_codes.attend_quantized(q.to(DEVICE), *inputs)
        assert relative(found, of_codes.attend_quantized_reference(q.to(DEVICE), *inputs)) < 1e-5

    def test_reads_a_part_of_a_larger_buffer(self) -> None:
        k, v = drawn(1, 2, 2, 128, 32).to(DEVICE), drawn(2, 2, 2, 128, 32).to(DEVICE)
        keys, values = Quantize(4, "channel", 32).encode(k), Quantize(4, "token", 32).encode(v)
        some = {name: part[:, :, :2] for name, part in keys.items()}
        few = {name: part[:, :, :64] for name, part in values.items()}
        none, visible = k[:, :, :0], torch.ones(2, 1, 64, dtype=torch.bool, device=DEVICE)
        inputs = (some, few, 4, none, none, visible, 0.2)
        q = drawn(0, 2, 4, 1, 32).to(DEVICE)
        wanted = of_codes.attend_quantized_reference(q, *inputs)
        assert relative(of_codes.attend_quantized(q, *inputs), wanted) < 1e-5

    def test_what_it_cannot_take_is_said(self) -> None:
        k = drawn(1, 1, 1, 24, 32).to(DEVICE)
        keys, values = Quantize(4, "channel", 24).encode(k), Quantize(4, "token", 32).encode(k)
        visible = torch.ones(1, 1, 24, dtype=torch.bool, device=DEVICE)
        with pytest.raises(ValueError, match="powers of two, not 4 bits, head_dim 32 and groups of 24"):
            of_codes.attend_quantized(k[:, :, :1], keys, values, 4, k[:, :, :0], k[:, :, :0], visible, 1.0)
        keys, values = Quantize(4, "channel", 16).encode(k[:, :, :16]), Quantize(4, "token", 32).encode(k)
        keys["code"] = keys["code"].transpose(-1, -2).contiguous().transpose(-1, -2)
        with pytest.raises(ValueError, match="lie alike"):
            of_codes.attend_quantized(k[:, :, :1], keys, values, 4, k[:, :, :0], k[:, :, :0], visible, 1.0)

    def test_what_is_visible_may_differ_by_kv_head(self) -> None:
        k, v, q = drawn(1, 2, 2, 64, 32).to(DEVICE), drawn(2, 2, 2, 64, 32).to(DEVICE), drawn(0, 2, 4, 1, 32)
        keys, values = Quantize(4, "channel", 32).encode(k), Quantize(4, "token", 32).encode(v)
        visible = (drawn(3, 2, 2, 70) > 0).to(DEVICE)
        inputs = (keys, values, 4, k[:, :, :6], v[:, :, :6], visible, 0.2)
        wanted = of_codes.attend_quantized_reference(q.to(DEVICE), *inputs)
        assert relative(of_codes.attend_quantized(q.to(DEVICE), *inputs), wanted) < 1e-5
