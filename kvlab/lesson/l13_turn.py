"""The turntable: one real head, rotated or not, written in a few levels, even or best; what it costs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from ipywidgets import Checkbox, Dropdown, IntSlider
from torch import Tensor

from .l13 import Coded, coded
from .style import BLUE, GREEN, INK, OCHRE, QUIET, Drawing, drawing, styled
from .tables import card, inline
from .widgets import Exhibit, live

EDGES = np.linspace(-8, 8, 65)
EVEN, BEST = "evenly spaced", "best for a normal"


@dataclass(frozen=True)
class Setting:
    stream: str
    layer: int
    head: int
    rotate: bool
    bits: int
    levels: str


def result(streams: dict[str, Tensor], at: Setting) -> Coded:
    """What the codec makes of that head; streams: name -> `[layers, kv_heads, tokens, head_dim]`."""
    return coded(streams[at.stream][at.layer, at.head], at.rotate, at.levels == BEST, at.bits)


def says(found: Coded, dim: int) -> str:
    outside = float((found.seen.abs() > max(found.levels)).float().mean())
    return (
        f"relative error **{found.error:.3f}**, {found.bits:g} bits a number: {found.bits * dim / 8:g} bytes "
        f"a vector instead of {2 * dim} in fp16; {outside:.1%} of the numbers lie beyond the last level"
    )


def shares(found: Coded) -> np.ndarray:
    """The share of the coordinates in each bin; those outside count in the last one."""
    x = found.seen.flatten().cpu().numpy().clip(EDGES[0], EDGES[-1])
    return np.histogram(x, EDGES)[0] / x.size


def shown(streams: dict[str, Tensor], *values: object) -> str:
    """Bars, levels and the sentence, as HTML."""
    at = Setting(*values)  # type: ignore[arg-type]
    found = result(streams, at)
    colour = BLUE if at.rotate else OCHRE
    bars = "".join(
        f'<div style="flex:1;margin-right:1px;height:{min(150, 900 * s):.1f}px;background:{colour}"></div>'
        for s in shares(found)
    )
    ticks = "".join(
        f'<div style="position:absolute;left:{100 * (x - EDGES[0]) / (EDGES[-1] - EDGES[0]):.2f}%;'
        f'width:3px;height:14px;background:{GREEN}" title="{x:.2f}"></div>'
        for x in found.levels
        if EDGES[0] <= x <= EDGES[-1]
    )
    picture = (
        f'<div style="display:flex;align-items:flex-end;height:152px;width:560px">{bars}</div>'
        f'<div style="position:relative;height:18px;width:560px">{ticks}</div>'
        f'<div style="color:{QUIET};font-size:12px;width:560px;display:flex;justify-content:space-between">'
        "<span>−8</span><span>coordinates (bars) and levels (green)</span><span>8</span></div>"
    )
    words = f'<div style="color:{INK}">{inline(says(found, found.seen.shape[-1]))}</div>'
    return card(picture + words)


@styled
def turntable_figure(streams: dict[str, Tensor], at: Setting) -> Drawing:
    """The same as a picture, for places where no widget runs."""
    found = result(streams, at)
    words = f"coordinates of one head's {at.stream} and the levels they are written in"
    figure, (ax,) = drawing(6.6, 3, alt=words)
    ax.bar((EDGES[1:] + EDGES[:-1]) / 2, shares(found), 0.21, color=BLUE if at.rotate else OCHRE)
    ax.plot(found.levels, [-0.004] * len(found.levels), "|", color=GREEN, markersize=12, markeredgewidth=3)
    ax.set_xlim(-8, 8)
    ax.set_xlabel("coordinate, where every vector has mean square 1 (green: levels)")
    ax.set_ylabel("share")
    turned = "rotated" if at.rotate else "as they are"
    ax.set_title(f"{at.stream}, {turned}, {at.bits} bits, {at.levels}: error {found.error:.2f}", fontsize=10)
    return figure


class Turntable(Exhibit):
    """`.rotate`, `.bits`, `.levels`, `.stream`, `.layer` and `.head` are the controls, `.view` the head."""

    def __init__(self, streams: dict[str, Tensor], start: Setting) -> None:
        layers, heads = next(iter(streams.values())).shape[:2]
        self.stream = Dropdown(options=list(streams), value=start.stream, description="stream")
        self.layer = IntSlider(start.layer, min=0, max=layers - 1, description="layer")
        self.head = IntSlider(start.head, min=0, max=heads - 1, description="KV head")
        self.rotate = Checkbox(start.rotate, description="rotate")
        self.bits = Dropdown(options=[4, 3, 2], value=start.bits, description="bits")
        self.levels = Dropdown(options=[EVEN, BEST], value=start.levels, description="levels")
        controls = [self.stream, self.layer, self.head, self.rotate, self.bits, self.levels]
        self.view = live(functools.partial(shown, streams), *controls)
        super().__init__(
            [*controls, self.view],
            title="Turntable: rotate a real head and choose its levels",
            picture=functools.partial(turntable_figure, streams, start),
        )


def turntable(keys: Tensor, values: Tensor, layer: int = 0, head: int = 0) -> Turntable:
    """The widget over real keys and values `[layers, kv_heads, tokens, head_dim]`."""
    start = Setting("keys", layer, head, False, 2, EVEN)
    return Turntable({"keys": keys, "values": values}, start)
