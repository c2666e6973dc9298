"""The ring as a widget: the slots of a sliding layer, token by token, beside a full layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from ipywidgets import Button, Dropdown, HBox, IntSlider, Layout
from matplotlib.patches import Wedge

from kvlab.model.config import Config

from .l10_ring import MOST, TOY, Reading, Rings, says
from .style import BACKGROUND, BLUE, GREEN, GRID, INK, OCHRE, QUIET, RUST, Drawing, drawing, styled
from .tables import card, inline, token_html
from .widgets import Exhibit, live

# --- as HTML ----------------------------------------------------------------------------------------------


def shown(rings: dict[int, Rings], words: Sequence[str], tokens: int, window: int) -> str:
    """The ring, the full layer beside it, and all layers below."""
    found = rings[window].read(min(tokens, MOST[window]))
    ring = f'<div style="flex:none">{_svg(found)}</div>'
    beside = f"<b>A full layer</b> keeps all {found.full:,}{_full(found, words)}"
    beside = f'<div style="max-width:420px">{beside}</div>'
    pair = f'<div style="display:flex;gap:28px;align-items:center;flex-wrap:wrap">{ring}{beside}</div>'
    return card(f"<div>{inline(says(found, words))}</div>{pair}{_layers(found, rings[window].config)}")


def _colour(found: Reading, slot: int) -> str:
    if slot == found.slot:
        return OCHRE
    if found.visible[slot] < 0:
        return RUST if found.memory[slot] >= 0 else BACKGROUND
    age = (found.tokens - 1 - found.visible[slot]) / len(found.memory)
    return _mix(BLUE, "#B9C9E8", age)


def _mix(a: str, b: str, share: float) -> str:
    parts = [(int(a[i : i + 2], 16), int(b[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(x + (y - x) * share):02X}" for x, y in parts)


def _svg(found: Reading, side: int = 250) -> str:
    size, mid, out, inner = len(found.memory), side / 2, side / 2 - 6, side / 2 - 58
    parts = []
    for slot in range(size):
        a, b = (2 * math.pi * (slot + d) / size - math.pi / 2 for d in (0, 1))
        xy = [
            (mid + r * math.cos(t), mid + r * math.sin(t))
            for r, t in ((out, a), (out, b), (inner, b), (inner, a))
        ]
        place = [f"{x:.1f} {y:.1f}" for x, y in xy]
        path = f"M{place[0]}A{out} {out} 0 0 1 {place[1]}L{place[2]}A{inner} {inner} 0 0 0 {place[3]}Z"
        edge = BACKGROUND if size <= 16 else "none"
        parts.append(f'<path d="{path}" fill="{_colour(found, slot)}" stroke="{edge}" stroke-width="2"/>')
        if size <= 16:
            t, r = (a + b) / 2, (out + inner) / 2
            gone = found.visible[slot] < 0
            label = str(found.memory[slot]) if found.memory[slot] >= 0 else "–"
            line = ' text-decoration="line-through"' if gone and found.memory[slot] >= 0 else ""
            ink = (
                INK
                if found.memory[slot] < 0
                else "#FFFFFF"
                if found.tokens - 1 - found.memory[slot] < 5 or gone
                else INK
            )
            parts.append(_text(mid + r * math.cos(t), mid + r * math.sin(t) + 5, label, 15, ink, line))
            parts.append(
                _text(
                    mid + (inner - 12) * math.cos(t),
                    mid + (inner - 12) * math.sin(t) + 4,
                    f"{slot}",
                    10,
                    QUIET,
                )
            )
    if size > 16:
        low = min(p for p in found.visible if p >= 0)
        for i, line in enumerate((f"{size} slots", f"positions {low:,}", f"to {found.tokens - 1:,}")):
            parts.append(_text(mid, mid - 14 + 18 * i, line, 13, INK))
    words = f"a ring of {size} slots; the newest token is in slot {found.slot}"
    return f'<svg width="{side}" height="{side}" role="img" aria-label="{words}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, size: int, ink: str, more: str = "") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="{size}"'
    return f'<text {where} fill="{ink}"{more}>{text}</text>'


def _full(found: Reading, words: Sequence[str]) -> str:
    if found.tokens > 64:
        style = f"background:{GREEN};color:#FFFFFF;padding:3px 6px;margin-top:6px"
        return f'<div style="{style}">positions 0 to {found.tokens - 1:,}</div>'
    cell = "display:inline-block;margin:2px 1px;padding:1px 5px;font-size:12px;color:#FFFFFF"
    cells = []
    for p in range(found.tokens):
        name = f"{p} {token_html(words[p])}" if p < len(words) else str(p)
        seen = p in found.visible or p == found.tokens - 1
        cells.append(f'<span style="{cell};background:{GREEN};opacity:{1 if seen else 0.55}">{name}</span>')
    return f"<div>{''.join(cells)}</div>"


def _layers(found: Reading, config: Config) -> str:
    """A bar for every layer: how much it keeps."""
    bars = []
    for i, (kind, n) in enumerate(zip(config.layer_types, found.kept, strict=True)):
        colour = GREEN if kind == "full" else BLUE
        tall = max(2, round(56 * n / max(found.kept)))
        style = f"height:{tall}px;background:{colour}"
        bar = f'<div title="layer {i}, {kind}: {n:,} entries" style="{style}"></div>'
        name = f'<div style="font-size:10px;text-align:center;color:{QUIET}">{i}</div>'
        bars.append(f'<div style="width:24px">{bar}{name}</div>')
    strip = f'<div style="display:flex;gap:3px;align-items:flex-end;margin-top:8px">{"".join(bars)}</div>'
    sliding = found.kept[config.layer_types.index("sliding")]
    text = f"Entries by layer: {sliding:,} in each sliding one, {found.full:,} in each full one. "
    return strip + f'<div style="border-top:1px solid {GRID}">{text}Stored: {found.stored:,} bytes.</div>'


# --- as a picture -----------------------------------------------------------------------------------------


@styled
def ring_figure(rings: dict[int, Rings], words: Sequence[str], tokens: int, window: int) -> Drawing:
    """The ring and the bars of all layers, for places where no widget runs."""
    found, config = rings[window].read(tokens), rings[window].config
    figure, (ax, bar) = drawing(8.6, 3.6, alt=says(found, words), columns=2)
    size = len(found.memory)
    for slot in range(size):
        a, b = (90 - 360 * (slot + d) / size for d in (0, 1))
        ax.add_patch(Wedge((0, 0), 1, b, a, width=0.45, facecolor=_colour(found, slot), edgecolor=BACKGROUND))
        t = math.radians((a + b) / 2)
        gone = found.visible[slot] < 0 <= found.memory[slot]
        label = f"{found.memory[slot]}" + (" ×" if gone else "") if found.memory[slot] >= 0 else "–"
        ink = "white" if gone or found.tokens - 1 - found.memory[slot] < 5 else INK
        ax.text(
            0.78 * math.cos(t), 0.78 * math.sin(t), label, ha="center", va="center", color=ink, fontsize=10
        )
        at = 0.46 * math.cos(t), 0.46 * math.sin(t)
        ax.text(*at, f"{slot}", ha="center", va="center", color=QUIET, fontsize=8)
    ax.text(0, 0, "slot", ha="center", va="center", color=QUIET, fontsize=8)
    ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
    ax.axis("off")
    ax.set_title(f"{tokens} tokens: positions in the slots", fontsize=10)
    colours = [GREEN if kind == "full" else BLUE for kind in config.layer_types]
    bar.bar(range(len(found.kept)), found.kept, color=colours)
    bar.set(xlabel="layer (green: full)", ylabel="entries kept")
    bar.set_xticks(range(0, len(found.kept), 2))
    return figure


class Ring(Exhibit):
    """`.token` (slider), `.window` (dropdown), `.next` (button); `.view.html.value` shows the store."""

    def __init__(self, rings: dict[int, Rings], words: Sequence[str], tokens: int) -> None:
        self.token = IntSlider(tokens, min=1, max=MOST[TOY], description="tokens")
        names = [(f"{TOY} slots, a toy" if n == TOY else f"{n} slots, as Gemma 3", n) for n in rings]
        self.window = Dropdown(options=names, value=TOY, description="window")
        self.next = Button(description="Next token")
        self.next.on_click(lambda _button: self._next())
        self.window.observe(lambda _change: self._fit(), names="value")
        self.view = live(functools.partial(shown, rings, words), self.token, self.window)
        row = HBox([self.window, self.token, self.next], layout=Layout(align_items="center"))
        super().__init__(
            [row, self.view],
            title="Ring: which position lies in which slot, token by token",
            picture=functools.partial(ring_figure, rings, words, tokens, TOY),
        )

    def _next(self) -> None:
        self.token.value = self.token.value % self.token.max + 1

    def _fit(self) -> None:
        """The slider goes as far as the ring is interesting; past the wrap is where to look first."""
        self.token.max = MOST[self.window.value]
        self.token.value = self.window.value + 3


def ring(config: Config, words: Sequence[str], tokens: int = 11) -> Ring:
    """The widget: a toy ring, and one of the model's own window, in caches of its shape."""
    sizes = (TOY, config.sliding_window or 512)
    return Ring({n: Rings(config, n) for n in sizes}, words, tokens)
