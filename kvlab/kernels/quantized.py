"""Attention of one query over packed keys and values, decoded in registers (KIVI's layout: Liu et al., 2024).

Decoding first would write every number back to memory in 16 bits and read it again. Here a block of codes
is loaded, and the scales are applied where they are fewest: to the query for keys (a scale is shared by the
tokens of a channel), to the numbers themselves for values (a scale is shared by the channels of a token).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kvlab.codecs.base import Packed
from kvlab.codecs.quantize import Quantize
from kvlab.kernels.splits import combined, partials, split_count
from kvlab.model.attention import attend


@triton.jit
def _codes(pointer, token, d, WIDTH: tl.constexpr, BITS: tl.constexpr):
    """Codes `[tokens, D]`: number d is in byte d % WIDTH of its token, in the d // WIDTH-th place of it."""
    byte = tl.load(pointer + token[:, None] * WIDTH + (d % WIDTH)[None, :])
    shift = (d // WIDTH * BITS).to(tl.uint8)
    return (byte >> shift[None, :]) & (2**BITS - 1)


@triton.jit
def _quantized(
    q, key_codes, key_scales, key_minima, value_codes, value_scales, value_minima, visible,
    parts, tops, sums, scale, blocks, per_split, key_room, value_room, visible_batch, visible_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, G_BLOCK: tl.constexpr, D: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, V_GROUPS: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)  # row: a sequence and one of its KV heads
    g, d, t = tl.arange(0, G_BLOCK), tl.arange(0, D), tl.arange(0, TOKENS)
    queries = tl.load(q + (row * GROUP + g)[:, None] * D + d, mask=(g < GROUP)[:, None], other=0.0)
    top = tl.full([G_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([G_BLOCK], tl.float32)
    mixed = tl.zeros([G_BLOCK, D], tl.float32)
    for block in range(split * per_split, tl.minimum((split + 1) * per_split, blocks)):
        # A score is q · (scale * code + minimum) = (q * scale) · code + q · minimum.
        at = row * key_room + block
        k_scale = tl.load(key_scales + at * D + d).to(tl.float32)
        k_minimum = tl.load(key_minima + at * D + d).to(tl.float32)
        codes = _codes(key_codes + at * TOKENS * WIDTH, t, d, WIDTH, BITS).to(queries.dtype)
        scaled = (queries * k_scale[None, :]).to(queries.dtype)
        scores = tl.dot(scaled, tl.trans(codes), input_precision="ieee").to(tl.float32)
        scores = (scores + tl.sum(queries * k_minimum[None, :], axis=1)[:, None]) * scale  # [G, TOKENS]
        token = block * TOKENS + t
        seen = tl.load(visible + row // KV_HEADS * visible_batch + row % KV_HEADS * visible_head + token) != 0
        scores = tl.where(seen[None, :], scores, float("-inf"))

        higher = tl.maximum(top, tl.max(scores, axis=1))
        safe = tl.maximum(higher, -1e30)  # nothing visible yet: exp(-inf - -inf) would be NaN
        p, shrink = tl.exp(scores - safe[:, None]), tl.exp(tl.maximum(top, -1e30) - safe)
        at_value = row * value_room + token
        group = at_value[:, None] * V_GROUPS + d[None, :] // (D // V_GROUPS)
        codes = _codes(value_codes, at_value, d, WIDTH, BITS).to(tl.float32)
        v = codes * tl.load(value_scales + group).to(tl.float32) + tl.load(value_minima + group).to(
            tl.float32
        )
        v = v.to(queries.dtype)
        mixed = mixed * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee").to(tl.float32)
        total = total * shrink + tl.sum(p, axis=1)
        top = higher
    place = (row * GROUP + g) * (SPLITS + 1) + split  # the last split is for the exact entries
    tl.store(parts + place[:, None] * D + d, mixed, mask=(g < GROUP)[:, None])
    tl.store(tops + place, top, mask=g < GROUP)
    tl.store(sums + place, total, mask=g < GROUP)


def attend_quantized(
    q: Tensor, keys: Packed, values: Packed, bits: int,
    exact_keys: Tensor, exact_values: Tensor, visible: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """softmax(q·k · scale) v over n packed tokens and m exact ones, without decoding to memory.

    q: `[batch, heads, 1, head_dim]`. keys: as `Quantize(bits, "channel", group)` packs n tokens; values: as
    `Quantize(bits, "token", group)` does, n or more of them (what is more is not read). exact_keys,
    exact_values: `[batch, kv_heads, m, head_dim]`, sinks and residual. visible: bool `[batch, 1 or kv_heads,
    n + m]`, the packed tokens first. Returns `[batch, heads, 1, head_dim]`, zeros where nothing is visible.

    Raises:
        ValueError: bits other than 8, 4 and 2, or a head_dim or group that is no power of two; packed parts
            that do not lie alike.
    """
    batch, heads, _, dim = q.shape
    kv_heads, blocks, tokens, width = keys["code"].shape[1:]
    if bits not in (2, 4, 8) or dim & (dim - 1) or tokens & (tokens - 1):
        raise ValueError(
            f"the kernel takes 8, 4 or 2 bits and powers of two, not {bits} bits, head_dim {dim} and groups "
            f"of {tokens} tokens."
        )
    key_room, value_room = room(keys), room(values)
    if key_room is None or value_room is None:
        raise ValueError("the kernel takes packed parts that lie alike; call .contiguous() on each.")
    n, rows, group = blocks * tokens, batch * kv_heads, heads // kv_heads
    seen = visible.expand(-1, kv_heads, -1)
    splits = split_count(rows, blocks)
    parts, tops, sums = partials(batch * heads, splits + 1, dim, q.device)
    _quantized[(rows, splits)](
        q.contiguous(), keys["code"], keys["scale"], keys["minimum"],
        values["code"], values["scale"], values["minimum"], seen.view(torch.uint8),
        parts, tops, sums, scale, blocks, triton.cdiv(blocks, splits),
        key_room, value_room, seen.stride(0), seen.stride(1),
        kv_heads, group, max(16, triton.next_power_of_2(group)), dim, tokens, width, bits,
        values["scale"].shape[3], splits,
    )  # fmt: skip
    last = (t[:, -1] for t in (parts, tops, sums))
    _exact(q, exact_keys, exact_values, visible[..., n:], scale, *last)
    return combined(parts, tops, sums, q).view(batch, heads, 1, dim)


def room(packed: Packed) -> int | None:
    """Blocks between the first ones of two heads, the same in every part; None: the parts lie otherwise."""
    rooms = set()
    for part in packed.values():
        block = part[0, 0, 0].numel()  # numbers of one block, which lie in a row
        in_rows = part[0, 0].is_contiguous() and part.stride(0) == part.shape[1] * part.stride(1)
        rooms.add(part.stride(1) // block if in_rows and part.stride(1) % block == 0 else None)
    return rooms.pop() if len(rooms) == 1 else None


def _exact(
    q: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float,
    part: Tensor, top: Tensor, total: Tensor,
) -> None:  # fmt: skip
    """The split of the exact entries, in plain PyTorch: they are few."""
    part.zero_()
    total.zero_()
    top.fill_(float("-inf"))
    if not keys.shape[2]:
        return
    batch, heads, _, dim = q.shape
    grouped = q.view(batch, keys.shape[1], -1, dim)
    scores = (grouped @ keys.transpose(-1, -2)).float() * scale  # [batch, kv_heads, group, m]
    scores = scores.masked_fill(~visible.unsqueeze(2), float("-inf"))
    highest = scores.amax(dim=-1, keepdim=True)
    p = torch.exp(scores - highest.clamp(min=-1e30))
    part.copy_((p.to(values.dtype) @ values).view(batch * heads, dim))
    top.copy_(highest.view(-1))
    total.copy_(p.sum(dim=-1).view(-1))


def attend_quantized_reference(
    q: Tensor, keys: Packed, values: Packed, bits: int,
    exact_keys: Tensor, exact_values: Tensor, visible: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """The same in plain PyTorch: decode everything, then attend."""
    n = keys["code"].shape[2] * keys["code"].shape[3]
    of_keys, of_values = Quantize(bits, "channel", keys["code"].shape[3]), Quantize(bits, "token", None)
    k = torch.cat((of_keys.decode(keys, q.dtype), exact_keys), dim=2)
    v = torch.cat((of_values.decode(values, q.dtype)[:, :, :n], exact_values), dim=2)
    return attend(q, k, v, visible.unsqueeze(2), scale).nan_to_num()
