"""The pruning dial: how many numbers of a vector stay, in which format, and what that costs and saves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ipywidgets import IntSlider, ToggleButtons
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from torch import Tensor

from kvlab.codecs import CSR, Chain, Codec, Mustafar, Quantize

from .l14 import Seen
from .style import COLOURS, DIVERGING, GRID, INK, QUIET, Drawing, drawing, styled
from .widgets import Exhibit, live

FORMATS = ("bitmap", "CSR", "bitmap, 4 bits")
SHOWN = 24  # tokens in the picture


def codec_of(format: str, kept: int, dim: int) -> Codec:
    """The codec that stores `kept` numbers of each vector in this format."""
    if format == "CSR":
        return CSR(kept / dim)
    pruned = Mustafar(kept / dim)
    return Chain(pruned, Quantize(4, "token", None)) if format == "bitmap, 4 bits" else pruned


@dataclass(frozen=True)
class Setting:
    """What the dial shows: bytes of a vector by what they are for, the error, and what came back."""

    values: float
    index: float
    scales: float
    error: float  # relative, over all layers and heads
    back: Tensor  # [tokens, head_dim] of the head in the picture

    @property
    def total(self) -> float:
        return self.values + self.index + self.scales


class Dial:
    """Real keys and values, pruned at any setting."""

    def __init__(self, found: Seen, layer: int = 12, head: int = 0) -> None:
        self.found, self.layer, self.head = found, min(layer, len(found.keys) - 1), head
        self.dim = found.keys.shape[-1]

    def entries(self, stream: str) -> Tensor:
        return self.found.keys if stream == "keys" else self.found.values

    def read(self, kept: int, format: str, stream: str) -> Setting:
        """Encode and decode them, and count the packed tensors."""
        x = self.entries(stream)
        codec = codec_of(format, kept, self.dim)
        packed = codec.encode(x)
        vectors = x[..., 0].numel()
        size = {name: part.nbytes / vectors for name, part in packed.items()}
        index = size.get("bitmap", 0) + size.get("column", 0)
        values = size.get("value", 0) + size.get("value.code", 0)
        back = codec.decode(packed, torch.float32)
        error = float((back - x).norm() / x.norm())
        return Setting(
            values, index, sum(size.values()) - index - values, error, back[self.layer, self.head, :SHOWN]
        )


@styled
def dial_figure(dial: Dial, kept: int, format: str, stream: str) -> Drawing:
    """A head's vectors before and after, and the bytes of one of them beside float16 and 4 bits."""
    figure, (before, after, ax) = drawing(
        9.0, 2.7, alt=f"{stream} before and after pruning, and the bytes of a vector", columns=3,
        width_ratios=[1, 1, 0.9],
    )  # fmt: skip
    x = dial.entries(stream)[dial.layer, dial.head, :SHOWN]
    top = float(x.abs().quantile(0.99))
    for one in (before, after):
        one.imshow(np.asarray(x), cmap=DIVERGING, vmin=-top, vmax=top, aspect="auto")
        one.grid(False)
        one.set_xlabel("channel")
        one.set_xticks([0, dial.dim // 2, dial.dim - 1])
    before.set_ylabel("token")
    ax.barh([0], [0], 0.5, color=COLOURS[0])
    ax.barh([0], [0], 0.5, color=COLOURS[3])
    ax.barh([0], [0], 0.5, color=COLOURS[4])
    ax.barh([1, 2], [2 * dial.dim, 5 * dial.dim / 8], 0.5, color=GRID)
    ax.set_yticks([0, 1, 2], ["bitmap,\n4 bits", "float16", "4 bits"])  # room for the widest
    ax.invert_yaxis()
    ax.set_xlim(0, 5 * dial.dim)  # CSR of all, and its words
    ax.set_xlabel("bytes a vector")
    ax.grid(axis="y", visible=False)
    for y, size in ((1, 2 * dial.dim), (2, 5 * dial.dim / 8)):
        ax.annotate(f"{size:.0f}", (size, y), (4, 0), textcoords="offset points", va="center", color=QUIET)
    ax.annotate("", (0, 0), (4, 0), textcoords="offset points", va="center", color=INK)
    redraw(figure, dial, kept, format, stream)
    return figure


@styled
def redraw(figure: Drawing, dial: Dial, kept: int, format: str, stream: str) -> Drawing:
    """The same figure at another setting."""
    found = dial.read(kept, format, stream)
    before, after, ax = figure.axes
    x = dial.entries(stream)[dial.layer, dial.head, :SHOWN]
    top = float(x.abs().quantile(0.99))
    for one, data in ((before, x), (after, torch.where(found.back == 0, torch.nan, found.back))):
        one.images[0].set_data(np.asarray(data))
        one.images[0].set_clim(-top, top)
    before.set_title(f"{stream}, layer {dial.layer}", fontsize=10)
    after.set_title(f"{kept} of {dial.dim} stay", fontsize=10)
    ax.set_yticks([0, 1, 2], [format.replace(", ", ",\n"), "float16", "4 bits"])
    left = 0.0
    for patch, size in zip(ax.patches[:3], (found.values, found.index, found.scales), strict=True):
        assert isinstance(patch, Rectangle)
        patch.set(x=left, width=size)
        left += size
    parts = f"{found.values:.0f} + {found.index:.0f}" + (f" + {found.scales:.0f}" if found.scales else "")
    note = ax.texts[-1]
    assert isinstance(note, Annotation)
    note.set_text(f"{parts} = {found.total:.0f}")
    note.xy = (found.total, 0)
    ax.set_title(f"error {found.error:.0%}", fontsize=10)
    return figure


class DialBox(Exhibit):
    """The widget; its parts are attributes, for tests."""

    def __init__(self, dial: Dial, kept: int = 32) -> None:
        self.kept = IntSlider(kept, 2, dial.dim, 2, description="stay")
        self.format = ToggleButtons(options=FORMATS, description="format")
        self.stream = ToggleButtons(options=("keys", "values"), description="stream")
        figure = dial_figure(dial, kept, FORMATS[0], "keys")
        self.view = live(
            lambda kept, format, stream: redraw(figure, dial, kept, format, stream),
            self.kept, self.format, self.stream,
        )  # fmt: skip
        super().__init__(
            [self.kept, self.format, self.stream, self.view],
            title="Pruning dial: numbers that stay, format, stream",
            picture=lambda: dial_figure(dial, kept, FORMATS[0], "keys"),
        )
