"""HTML that widgets and checks are made of: a card, a heat-coloured table, safe inline text."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Colormap, Normalize

from .style import ATTENTION, ATTENTION_NORM, BACKGROUND, GRID, INK, QUIET

CARD = f"background:{BACKGROUND};color:{INK};padding:8px 12px;border-radius:4px;line-height:1.45"

CODE = f"background:#EFECE4;color:{INK};padding:0 3px"  # a dark page's own colours don't fit on the card


def inline(text: str) -> str:
    """Plain text as safe HTML; `code` in backticks and **bold** are kept, newlines break."""
    safe = html.escape(text, quote=False)
    safe = re.sub(r"`([^`]+)`", rf'<code style="{CODE}">\1</code>', safe)
    safe = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe)
    return safe.replace("\n", "<br>")


def card(body: str, colour: str | None = None) -> str:
    """Put HTML on the light card that all widgets share; `colour` draws a bar on its left."""
    edge = f";border-left:5px solid {colour}" if colour else ""
    return f'<div style="{CARD}{edge}">{body}</div>'


def _shades(cmap: Colormap) -> list[tuple[str, str]]:
    """256 steps of a colour map as (background, text colour with enough contrast)."""
    return _shades_of(cmap(np.arange(256), bytes=True).tobytes())


@functools.lru_cache(maxsize=8)
def _shades_of(rgba: bytes) -> list[tuple[str, str]]:
    colours = [f"#{rgba[i : i + 3].hex().upper()}" for i in range(0, len(rgba), 4)]
    return [(c, "#000000" if contrast(c, "#000000") > contrast(c, "#FFFFFF") else "#FFFFFF") for c in colours]


def contrast(a: str, b: str) -> float:
    """WCAG contrast ratio of two hex colours: 1 (equal) to 21 (black on white)."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def heat_table(
    values: Sequence[Sequence[float]] | np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    caption: str,
    digits: int = 2,
    cmap: Colormap = ATTENTION,
    norm: Normalize = ATTENTION_NORM,
    corner: str = "query \\ key",
) -> str:
    """An HTML table whose cells are coloured by value, with the numbers in them. NaN cells stay empty.

    `values` is [rows, columns]; any array that numpy takes. Made for up to about 40 × 40 cells: from 17
    columns on the numbers are small and the columns' labels upright, so that it fits a notebook's width.
    """
    data = np.asarray(values, dtype=float)
    if data.shape != (len(rows), len(columns)):
        raise ValueError(f"values have shape {data.shape}, the labels {(len(rows), len(columns))}")
    shades = _shades(cmap)
    steps = np.nan_to_num(np.clip(np.asarray(norm(data), dtype=float), 0, 1) * 255).astype(int)
    dense = len(columns) > 16
    upright = f"{_HEAD};padding:2px 0;writing-mode:vertical-rl" if dense else _HEAD
    look = "padding:2px;font-size:9px" if dense else "padding:2px 6px"
    head = "".join(f'<th scope="col" style="{upright}">{token_html(c)}</th>' for c in columns)
    body = []
    for label, line, shade in zip(rows, data, steps, strict=True):
        cells = "".join(_cell(v, shades[s], digits, look) for v, s in zip(line, shade, strict=True))
        name = f'<th scope="row" style="{_HEAD};text-align:right">{token_html(label)}</th>'
        body.append(f"<tr>{name}{cells}</tr>")
    return _table(caption, f'<tr><th style="{_HEAD};color:{QUIET}">{inline(corner)}</th>{head}</tr>', body)


_HEAD = f"background:{BACKGROUND};color:{INK};font-weight:normal;padding:2px 6px;text-align:center"


def _cell(value: float, shade: tuple[str, str], digits: int, look: str) -> str:
    if np.isnan(value):
        return f'<td style="background:{BACKGROUND}"></td>'
    text = f"{value:.{digits}f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.{digits}f}"
    return f'<td style="background:{shade[0]};color:{shade[1]};{look};text-align:right">{text}</td>'


def _table(caption: str, head: str, body: list[str]) -> str:
    style = f"border-collapse:separate;border-spacing:1px;font-size:12px;background:{BACKGROUND};color:{INK}"
    note = f'<caption style="text-align:left;color:{INK};padding:2px 0">{inline(caption)}</caption>'
    return card(f'<table style="{style}">{note}<thead>{head}</thead><tbody>{"".join(body)}</tbody></table>')


def plain_table(rows: Sequence[Sequence[str]], columns: Sequence[str], *, caption: str) -> str:
    """An HTML table of texts; `code` and **bold** work in the cells, which are safe to show."""
    style = f"background:{BACKGROUND};color:{INK};border-bottom:1px solid {GRID}"
    style += ";padding:4px 8px;text-align:left"
    head = "".join(f'<th scope="col" style="{style};font-weight:bold">{inline(c)}</th>' for c in columns)
    body = ["".join(f'<td style="{style}">{inline(c)}</td>' for c in row) for row in rows]
    return _table(caption, f"<tr>{head}</tr>", [f"<tr>{line}</tr>" for line in body])


def token_html(token: str) -> str:
    """A token for HTML: spaces at its ends and newlines are made visible, Chinese and emoji stay."""
    text = token.replace("\n", "↵").replace("\t", "⇥")
    text = text.replace(" ", "␣") if text != text.strip(" ") else text
    return html.escape(text)
