"""Which Triton kernel serves a layer's step of one token, and in a sentence why none does where none does.

Two kinds of step have one: attention over entries packed as KIVI packs them, and over pages that a selection
chose among exact ones. Everything else is PyTorch's attention. Triton is imported when a kernel first runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab import kernels
from kvlab.codecs.base import Codec
from kvlab.codecs.quantize import Quantize
from kvlab.selection.base import Pick
from kvlab.stores.base import Knobs, View
from kvlab.stores.stream import GrowingStream

PACKED = "attend_quantized (Triton): packed entries are decoded in registers"
PAGES = "attend_pages (Triton): chosen pages are read where they lie"
LEAST = 16  # rows and columns of the smallest matrices that tensor cores multiply


def plain(why: str) -> str:
    """How a layer says that no kernel served it."""
    return f"plain PyTorch: {why}"


def attend_packed(
    q: Tensor, view: View, mask: Tensor | None, scale: float, knobs: Knobs
) -> tuple[Tensor | None, str]:
    """Attention over all entries of a layer that are packed, and what computed it; None: no kernel did.

    q: `[batch, heads, 1, head_dim]`; mask: bool `[batch, 1 or kv_heads, 1, slots]`, None: all are visible.
    Returns `[batch, heads, 1, head_dim]`.
    """
    if knobs.key_codec is None and knobs.value_codec is None:
        return None, plain("entries are exact, and all are read")
    why = _no_kernel(q, view, knobs.kernels) or _not_packed(view, knobs)
    if why:
        return None, plain(why)
    from kvlab.kernels.quantized import attend_quantized

    keys, values = view.keys, view.values
    assert isinstance(keys, GrowingStream) and isinstance(values, GrowingStream)
    first, end = keys.first.used, keys.first.used + keys.sealed_slots  # between them keys are packed
    if mask is None:
        mask = torch.ones(len(q), 1, 1, keys.slots, dtype=torch.bool, device=q.device)
    seen = torch.cat((mask[..., first:end], mask[..., :first], mask[..., end:]), dim=-1).squeeze(2)
    exact = _around(keys, first, end), _around(values, first, end)
    assert isinstance(keys.codec, Quantize)
    out = attend_quantized(q, keys.packed(), values.packed(), keys.codec.bits, *exact, seen, scale)
    return out, PACKED


def attend_picked(
    q: Tensor, view: View, pick: Pick, visible: Tensor, scale: float, wanted: bool | None
) -> tuple[Tensor | None, str]:
    """Attention over the pages and slots of a pick, and what computed it; None: no kernel did.

    q: `[batch, heads, 1, head_dim]`; visible: bool `[batch, 1 or kv_heads, 1, slots]`; wanted: the cache's
    `kernels`. Returns `[batch, heads, 1, head_dim]`.
    """
    keys, values = view.keys.exact(), view.values.exact()
    if pick.pages is None or pick.gaps or pick.bias is not None:
        return None, plain("the selection picks single entries, and the kernel reads pages")
    if keys is None or values is None:
        return None, plain("chosen entries are packed, and the kernel reads exact ones")
    why = _no_kernel(q, view, wanted)
    if why:
        return None, plain(why)
    from kvlab.kernels.pages import attend_pages, in_rows

    if not in_rows(keys, values):
        return None, plain("keys and values do not lie alike")
    return attend_pages(q, keys, values, pick.pages, pick.page, pick.rows, visible.squeeze(2), scale), PAGES


def _no_kernel(q: Tensor, view: View, wanted: bool | None) -> str | None:
    """What keeps any kernel from serving such queries."""
    tokens, dim = q.shape[2:]
    if torch.compiler.is_compiling():
        return "torch.compile makes the kernels of this step"
    if tokens != 1:
        return f"{tokens} tokens came at once, and the kernels take one"
    if wanted is False:
        return "the cache was made with kernels=False"
    if view.bias is not None:
        return "merged entries weigh more than one"
    if q.requires_grad:
        return "a gradient is asked for, and the kernels have none"
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the kernels add in float32, which {str(q.dtype).removeprefix('torch.')} is too fine for"
    if dim < LEAST or dim & (dim - 1):
        return f"the kernels take heads of 16, 32, 64 … numbers, not {dim}"
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return "Triton's interpreter computes nothing in bfloat16"
    return kernels.why_not(q.device, interpret=wanted is True)


def _not_packed(view: View, knobs: Knobs) -> str | None:
    """What keeps the entries of a layer from being such as `attend_quantized` reads."""
    keys, values = view.keys, view.values
    if not isinstance(keys, GrowingStream) or not isinstance(values, GrowingStream):
        return "keys are rotated when they are read" if knobs.plain_keys else "no kernel reads this store"
    of_keys, of_values = keys.codec, values.codec
    if not (_by(of_keys, "channel") and _by(of_values, "token")):
        return "the kernel reads keys packed by channel and values by token, as KIVI packs them"
    assert isinstance(of_keys, Quantize) and isinstance(of_values, Quantize)
    if of_keys.bits != of_values.bits or of_keys.bits == 3:
        return f"the kernel takes 8, 4 or 2 bits, not {of_keys.bits} for keys and {of_values.bits} for values"
    if of_keys.block < LEAST or of_keys.block & (of_keys.block - 1):
        return f"the kernel takes groups of 16, 32, 64 … tokens, not {of_keys.block}"
    first, end = keys.first.used, keys.first.used + keys.sealed_slots
    if first == end:
        return "nothing is packed yet"
    if values.first.used != first or values.first.used + values.sealed_slots < end:
        return "values are exact where keys are packed"
    return None


def _by(codec: Codec | None, axis: str) -> bool:
    """Whether a codec is plain min/max quantization along this axis."""
    return type(codec) is Quantize and codec.axis == axis and not codec.symmetric


def _around(stream: GrowingStream, first: int, end: int) -> Tensor:
    """The entries before `first` and from `end` on, `[batch, kv_heads, n, head_dim]`, decoded: few."""
    newest = stream.span(end, stream.slots)
    return torch.cat((stream.span(0, first), newest), dim=2) if first else newest
