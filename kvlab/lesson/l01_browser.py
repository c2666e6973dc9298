"""Lesson 01's head browser: every head of a model as a thumbnail, one of them large, one query in words."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from ipywidgets import HTML, Button, HBox, Image, IntSlider, Layout, VBox
from matplotlib.patches import Rectangle
from PIL import Image as Pillow
from torch import Tensor

from .figures import as_array, thumbnail_sheet, thumbnails
from .l01 import Head, copy_scores, previous_scores, sink_scores, strongest
from .style import (
    ATTENTION,
    ATTENTION_NORM,
    BACKGROUND,
    INK,
    QUIET,
    RUST,
    Drawing,
    drawing,
    styled,
    token_text,
)
from .tables import card, contrast, inline, token_html
from .widgets import Exhibit, live

FINDS = {
    "sink": "gives most to the first token",
    "previous": "gives most to the token before",
    "copy": "gives most to the answer",
}
CYCLE = 3  # pressing a button again shows its next head, up to this many


class Sheet:
    """The thumbnails, drawn once; `png(layer, head)` only paints a frame around one of them."""

    def __init__(self, maps: np.ndarray) -> None:
        figure = thumbnails(maps)
        figure.frame()
        pixels = np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]
        # One byte a pixel: the picture goes to the browser at every move, and is five times smaller so.
        few = Pillow.fromarray(pixels).quantize(255, dither=Pillow.Dither.NONE)
        self.pixels = np.asarray(few)
        colours = (few.getpalette() or [])[: 3 * 255]
        self.palette = [*colours, *[0] * (3 * 255 - len(colours)), *_rgb(RUST)]
        self.inches = figure.get_figwidth()
        self._axes, self._size = figure.axes[0], maps.shape[-1]
        self._gap = gap_of(self._size)

    def box(self, layer: int, head: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a thumbnail's frame in pixels from the top left."""
        pitch, edge = self._size + self._gap, self._gap / 2 + 0.5
        corners = [
            (layer * pitch - edge, head * pitch - edge),
            ((layer + 1) * pitch - edge, (head + 1) * pitch - edge),
        ]
        (left, top), (right, bottom) = self._axes.transData.transform(corners).round().astype(int).tolist()
        height, width = self.pixels.shape
        return max(left, 0), max(height - top, 0), min(right, width), min(height - bottom, height)

    def png(self, layer: int, head: int, width: int = 4) -> bytes:
        """The sheet with a frame around one head."""
        left, top, right, bottom = self.box(layer, head)
        pixels = self.pixels.copy()
        pixels[top:bottom, left:right] = 255
        inside = slice(top + width, bottom - width), slice(left + width, right - width)
        pixels[inside] = self.pixels[inside]
        image = Pillow.fromarray(pixels, mode="P")
        image.putpalette(self.palette)
        buffer = io.BytesIO()
        image.save(buffer, format="png", compress_level=1)
        return buffer.getvalue()


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


class HeadBrowser(Exhibit):
    """Browse all heads over one text. Controls: `.layer`, `.head`, `.query`, `.buttons["sink"]`, …

    maps: `[layers, heads, tokens, tokens]`; answer: the key that the copy button looks for.
    `.map.value` is the large map, `.words.value` what one query reads, `.sheet.value` the thumbnails' PNG.
    """

    def __init__(self, maps: Tensor, tokens: Sequence[str], answer: int) -> None:
        self.maps, self.tokens = as_array(maps), list(tokens)
        scores = {
            "sink": sink_scores(maps),
            "previous": previous_scores(maps),
            "copy": copy_scores(maps, answer),
        }
        self.found = {name: strongest(values, CYCLE) for name, values in scores.items()}
        layers, heads, size, _ = self.maps.shape
        wide = Layout(width="auto", max_width="22em")
        self.layer = IntSlider(description="layer", max=layers - 1, layout=wide)
        self.head = IntSlider(description="head", max=heads - 1, layout=wide)
        self.query = IntSlider(description="query", max=size - 1, value=size - 1, layout=wide)
        self.buttons = {
            name: Button(
                description=name,
                tooltip=f"A head that {FINDS[name]}",
                layout=Layout(flex="1 1 0", width="auto", min_width="0"),
            )
            for name in FINDS
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _button, name=name: self.show(name))
        self._thumbnails = Sheet(self.maps)
        # No margins, and widths that give way: else a box as wide as the notebook gets a scroll bar.
        fits = Layout(max_width="100%", width=f"{self._thumbnails.inches * 96:.0f}px", margin="0")
        self.sheet = Image(format="png", layout=fits)
        self.map, self.words = HTML(layout=Layout(flex="none")), HTML(layout=Layout(width="auto"))
        live(self._draw, self.layer, self.head, self.query)
        buttons = HBox(list(self.buttons.values()))
        rest = Layout(flex="1 1 0", min_width="18em")
        controls = VBox([buttons, self.layer, self.head, self.query, self.words], layout=rest)
        title = (
            f"All {layers} × {heads} heads: move layer, head and query, or find a sink, previous or copy head"
        )
        super().__init__([self.sheet, HBox([self.map, controls])], title=title, picture=self.picture)

    def show(self, name: str) -> None:
        """Go to the head that does most of "sink", "previous" or "copy"; the same again: to the next one."""
        found, now = self.found[name], (self.layer.value, self.head.value)
        after = found.index(now) + 1 if now in found else 0
        self.layer.value, self.head.value = found[after % len(found)]

    def picture(self) -> Drawing:
        """All thumbnails, and below them the best head of each button."""
        return overview(self.maps, self.tokens, {name: heads[0] for name, heads in self.found.items()})

    def _draw(self, layer: int, head: int, query: int) -> None:
        weights = self.maps[layer, head]
        self.sheet.value = self._thumbnails.png(layer, head)
        self.map.value = grid(weights, self.tokens, query, f"layer {layer}, head {head}")
        self.words.value = sentence(weights[query], self.tokens, query, self._names((layer, head)))

    def _names(self, at: Head) -> str:
        places = {name: heads.index(at) + 1 for name, heads in self.found.items() if at in heads}
        return "; ".join(f"No. {place} of the heads that {_PLURAL[name]}" for name, place in places.items())


@styled
def overview(maps: np.ndarray, tokens: Sequence[str], best: dict[str, Head]) -> Drawing:
    """All heads as thumbnails with some of them framed, and those large below."""
    named = ", ".join(f"{name} {layer}.{head}" for name, (layer, head) in best.items())
    alt = f"{maps.shape[0]} × {maps.shape[1]} attention maps; layer.head of three: {named}"
    figure, axes = drawing(9.0, 6.3, alt=alt, rows=2, columns=len(best), height_ratios=(1, 1.15))
    for ax in axes[: len(best)]:
        ax.remove()
    rows = axes[0].get_gridspec()
    assert rows is not None
    sheet = figure.add_subplot(rows[0, :])
    size, gap = maps.shape[-1], gap_of(maps.shape[-1])
    few = ATTENTION.resampled(24)  # as fine as can be seen here, and the stored picture is half as large
    sheet.imshow(thumbnail_sheet(maps, gap), cmap=few, norm=ATTENTION_NORM)
    for axis, count in ((sheet.xaxis, maps.shape[0]), (sheet.yaxis, maps.shape[1])):
        axis.set_ticks(
            [n * (size + gap) + (size - 1) / 2 for n in range(count)], list(map(str, range(count)))
        )
    sheet.tick_params(length=0, labelsize=7)
    sheet.set_xlabel("layer", fontsize=8)
    sheet.set_ylabel("head", fontsize=8)
    for ax, (name, (layer, head)) in zip(axes[len(best) :], best.items(), strict=True):
        corner = (layer * (size + gap) - gap / 2 - 0.5, head * (size + gap) - gap / 2 - 0.5)
        frame = Rectangle(corner, size + gap, size + gap, fill=False, edgecolor=RUST, linewidth=2)
        frame.set_clip_on(False)
        sheet.add_patch(frame)
        ax.imshow(maps[layer, head], cmap=ATTENTION, norm=ATTENTION_NORM)
        labels = [token_text(token) for token in tokens]
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        ax.set_yticks(range(len(labels)), labels, fontsize=6)
        ax.tick_params(length=0)
        ax.set_xlabel("key", fontsize=8)
        ax.set_ylabel("query", fontsize=8)
        ax.set_title(f"{name}: layer {layer}, head {head}", fontsize=9)
    for ax in figure.axes:
        ax.grid(False)
        ax.spines[["left", "bottom"]].set_visible(False)
    return figure


def gap_of(size: int) -> int:
    """Blank pixels between thumbnails of `size` tokens, as `thumbnails` leaves them."""
    return max(1, round(0.12 * size))


_PLURAL = {name: says.replace("gives", "give") for name, says in FINDS.items()}
_SQUARE = "min-width:13px;height:13px;padding:0"
_SHADES = [f"#{r:02X}{g:02X}{b:02X}" for r, g, b, _ in ATTENTION(np.arange(256), bytes=True)]


def _shades(weights: np.ndarray) -> list[str]:
    steps = 255 * np.clip(np.asarray(ATTENTION_NORM(weights.ravel())), 0, 1)
    return [_SHADES[step] for step in steps.astype(int)]


def grid(weights: np.ndarray, tokens: Sequence[str], query: int, caption: str) -> str:
    """One map as an HTML table of small squares; the row of `query` is framed, what it can't see is blank."""
    names, size, shades = [token_html(token) for token in tokens], len(tokens), _shades(weights)
    rows = []
    for i, line in enumerate(weights):
        cells = "".join(
            f'<td style="{_SQUARE};background:{shades[i * size + j]}" title="{names[j]}: {w:.2f}"></td>'
            for j, w in enumerate(line[: i + 1])
        )
        colour, frame = (RUST, f"outline:2px solid {RUST}") if i == query else (INK, "")
        label = f"color:{colour};font-weight:normal;text-align:right;padding-right:4px"
        head = f'<th scope="row" style="{label}">{names[i]}</th>'
        rows.append(f'<tr style="line-height:13px;{frame}">{head}{cells}</tr>')
    style = f"border-collapse:separate;border-spacing:1px;font-size:11px;background:{BACKGROUND}"
    note = (
        f'<caption style="text-align:left;color:{INK}">{inline(caption)}: rows query, columns key</caption>'
    )
    return card(f'<table style="{style}">{note}<tbody>{"".join(rows)}</tbody></table>')


def sentence(weights: np.ndarray, tokens: Sequence[str], query: int, names: str) -> str:
    """The text, each token coloured by how much the query reads it, then the strongest in words."""
    spans = []
    for i, (token, shade) in enumerate(zip(tokens, _shades(weights), strict=True)):
        look = f"color:{QUIET}"  # not to be seen by the query
        if i <= query:
            ink = "#000000" if contrast(shade, "#000000") > contrast(shade, "#FFFFFF") else "#FFFFFF"
            look = f"background:{shade};color:{ink}"
        edge = f";outline:2px solid {RUST}" if i == query else ""
        spans.append(f'<span style="{look};padding:2px;margin:1px{edge}">{token_html(token)}</span>')
    shown = [token.replace(" ", "␣").replace("\n", "↵") for token in tokens]
    order = np.argsort(-weights, kind="stable")[: min(3, query + 1)]
    reads = ", ".join(f"`{shown[k]}` (token {k}) {weights[k]:.2f}" for k in order)
    text = inline(f"Query `{shown[query]}` (token {query}) reads {reads}.\n{names}")
    return card(f'<div style="line-height:2">{" ".join(spans)}</div><div>{text}</div>')
