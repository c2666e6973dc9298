"""The one look of every figure: colours, fonts, units, and a Figure that is the same picture every time."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patheffects import withStroke
from matplotlib.transforms import IdentityTransform
from PIL import Image

# An opaque, nearly white card: text and lines keep their contrast whatever the page behind is.
BACKGROUND = "#FCFBF8"
INK = "#33312E"
QUIET = "#6B6761"
GRID = "#E4E1DA"

BLUE, GREEN, RUST, OCHRE, PLUM = "#243AEA", "#009368", "#822A0B", "#A47F03", "#670F69"
COLOURS: tuple[str, ...] = (BLUE, GREEN, RUST, OCHRE, PLUM)

DPI = 144
MEASURED: dict[str, Any] = {"linestyle": "-", "marker": "o", "markersize": 4, "linewidth": 1.8}
THEORY: dict[str, Any] = {"linestyle": (0, (5, 3)), "marker": "", "linewidth": 1.4}

# One scale for every attention map: 0 to 1, square-root spaced, so that a weight of .02 can be seen.
_PALE_TO_DARK = ["#F4F1EA", "#B9C9E8", "#5C79D6", "#2A2F9E", "#0E0B3D"]
ATTENTION = LinearSegmentedColormap.from_list("kvlab", _PALE_TO_DARK)
ATTENTION_NORM = PowerNorm(gamma=0.5, vmin=0.0, vmax=1.0)
DIVERGING = LinearSegmentedColormap.from_list("kvlab-", [RUST, "#D9A58F", "#F7F5F0", "#8F9BEE", BLUE])

STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same letters on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": BACKGROUND,
    "figure.facecolor": BACKGROUND,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=COLOURS),
    "image.interpolation": "nearest",
    "savefig.facecolor": BACKGROUND,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under `STYLE`; nobody else's matplotlib settings are touched."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return inner


class Drawing(Figure):
    """A matplotlib Figure that a notebook shows as one PNG (no pyplot, no date inside) with a line of text.

    `alt` says in words what the picture shows: screen readers and `text/plain` get it. Strict nbval
    compares it: put no digit into it that another machine may measure otherwise.
    """

    alt: str = "figure"

    def png(self) -> bytes:
        """The picture as PNG bytes; equal data give equal bytes (same matplotlib)."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()

    def frame(self) -> bytes:
        """The picture for a moving widget: laid out once, afterwards only drawn, 3 to 4 times as fast.

        So a widget that moves makes its `Drawing` once, changes its data (`line.set_ydata(…)`), and
        returns it again; places, limits and labels' sides stay as they were.
        """
        with matplotlib.rc_context(STYLE):
            if self.get_layout_engine() is not None:
                self.draw_without_rendering()
                self.set_layout_engine("none")
                for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
                    x, y = axis.label.get_transform().transform(axis.label.get_position())
                    axis.set_label_coords(float(x), float(y), transform=IdentityTransform())
            canvas = FigureCanvasAgg(self)
            canvas.draw()
            buffer = io.BytesIO()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="png", compress_level=1)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        picture = base64.b64encode(self.png()).decode("ascii")
        size = {"width": round(self.get_figwidth() * 96), "alt": self.alt}
        return {"image/png": picture, "text/plain": f"[figure] {self.alt}"}, {"image/png": size}


@styled
def drawing(
    width: float = 6.4, height: float = 3.4, *, alt: str, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Drawing, list[Axes]]:
    """An empty styled figure of `width` × `height` inches and its axes, row by row.

    Use it inside a function decorated with `@styled`, so that what you add has the style too.
    """
    figure = Drawing(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.alt = alt
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.flat)


@functools.cache
def _font_has() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


@functools.lru_cache(maxsize=4096)
def token_text(token: str) -> str:
    """A token as a label: a leading or lone space as ␣, newlines as ↵, what the font lacks as \\u escapes.

    The HTML tables show Chinese and emoji as they are; in pictures only the letters of matplotlib's own
    font are sure to exist, and a missing one would print a warning.
    """
    text = token.replace("\n", "↵").replace("\t", "⇥").replace("\r", "⇤")
    text = text.replace(" ", "␣") if not text.strip(" ") or text != text.strip(" ") else text
    known = _font_has()
    safe = "".join(c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in text)
    return safe.replace("$", r"\$")  # a dollar sign would start a formula


def number(value: float) -> str:
    """A number for people: three digits, thousands separated; very large and very small ones as powers."""
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def tick(value: float, _index: float = 0) -> str:
    """What stands at a place of an axis: a plain number from 0.001 to ten million, else a power of ten."""
    if value and not 1e-3 <= abs(value) < 1e7:
        power = math.log10(abs(value))
        whole = value > 0 and abs(power - round(power)) < 1e-6
        return f"$10^{{{round(power)}}}$" if whole else f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,g}"


def halo(width: float = 2.5) -> withStroke:
    """A rim of the background's colour around text that lies on lines or dots."""
    return withStroke(linewidth=width, foreground=BACKGROUND)


def dark_text(colour: str) -> str:
    """A darker shade of a line's colour, for its label: small text needs more contrast than a line."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.7 * red, 0.7 * green, 0.7 * blue))


@styled
def direct_labels(axes: Axes, ends: Sequence[tuple[float, str, str]], gap: float = 11.0) -> None:
    """Write each line's name at the right edge, level with its last point, in its colour.

    `ends` has (y of the last point, text, colour). Labels nearer than `gap` points are moved apart.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    root = axes.get_figure(root=True)
    assert root is not None
    height = root.get_figheight() * 72 * 0.72  # about: constrained layout places the axes later
    x = axes.get_xlim()[1]
    wanted = sorted((float(to_axes.transform((x, y))[1]), text, colour) for y, text, colour in ends)
    for y, (_, text, colour) in zip(_spread([w[0] for w in wanted], gap / height), wanted, strict=True):
        shade, place = dark_text(colour), axes.transAxes
        axes.text(1.015, y, text, color=shade, transform=place, va="center", fontsize=9.5)


def _spread(positions: list[float], gap: float) -> list[float]:
    """Move sorted positions apart until neighbours differ by `gap`, each cluster about its own middle."""
    groups: list[list[float]] = []
    for p in positions:
        groups.append([p])
        while len(groups) > 1 and _start(groups[-1], gap) < _start(groups[-2], gap) + len(groups[-2]) * gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_start(g, gap) + i * gap for g in groups for i in range(len(g))]


def _start(group: list[float], gap: float) -> float:
    return float(np.mean(group)) - gap * (len(group) - 1) / 2
