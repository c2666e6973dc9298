"""The figures of lesson 14; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .chart_points import Point
from .judged_figures import price_figure
from .l14 import Alphabet, Coded, break_even, families, vector_bytes
from .style import COLOURS, GRID, INK, QUIET, RUST, Drawing, direct_labels, drawing, styled

BITMAP, CSR, OTHER = COLOURS[0], COLOURS[2], QUIET


@styled
def bytes_figure(dim: int = 64) -> Drawing:
    """Bytes of a head vector against the numbers that stay, by format; where the formats break even."""
    figure, (ax,) = drawing(
        6.4, 3.5, alt="bytes of a vector against numbers kept: CSR climbs faster than bitmap"
    )
    kept = np.arange(1, dim + 1)
    ends = []
    for name, colour in (("bitmap", BITMAP), ("CSR", CSR)):
        y = [vector_bytes(int(k), dim)[name] for k in kept]
        ax.plot(kept, y, color=colour, linewidth=2)
        ends.append((y[-1], name, colour))
    for name, words, at in (("all", "all numbers, float16", 1), ("int4", "all numbers, 4 bits", 42)):
        level = vector_bytes(dim, dim)[name]
        ax.axhline(level, color=OTHER, linewidth=1.2, linestyle=(0, (5, 3)))
        ax.annotate(words, (at, level), (0, 3), textcoords="offset points", color=OTHER, fontsize=9)
        for form, colour in (("bitmap", BITMAP), ("CSR", CSR)):
            k = break_even(form, name, dim)
            ax.plot(k, vector_bytes(k, dim)[form], "o", color=colour, markersize=6)
            where = (4, -13) if form == "bitmap" else (-15, 5)
            ax.annotate(
                str(k), (k, vector_bytes(k, dim)[form]), where, textcoords="offset points", color=colour
            )
    ax.set_xlabel(f"numbers that stay, of {dim}")
    ax.set_ylabel("bytes a vector")
    ax.set_xticks(range(0, dim + 1, 8))
    ax.set_ylim(0)
    direct_labels(ax, ends)
    return figure


@styled
def alphabet_figure(alphabets: Mapping[str, Alphabet]) -> Drawing:
    """How often each code occurs (bars), and how many bits Huffman gives it (numbers above)."""
    figure, axes = drawing(
        7.6, 3.0, alt="codes of min/max groups are spread, error-bounded ones are peaked",
        columns=len(alphabets), sharey=True,
    )  # fmt: skip
    top = max(float(a.share.max()) for a in alphabets.values())
    for ax, (name, one) in zip(axes, alphabets.items(), strict=True):
        at = np.flatnonzero(one.counts)
        ax.bar(at, one.share[at], color=COLOURS[0], width=0.8)
        for i in at:
            ax.annotate(
                str(int(one.lengths[i])), (i, one.share[i]), (0, 2), textcoords="offset points",
                ha="center", fontsize=8.5, color=RUST,
            )  # fmt: skip
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("code")
        ax.set_xticks(range(0, 16, 3))
        ax.set_xlim(-0.8, 15.8)
        ax.set_ylim(0, 1.15 * top)
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("share of the codes")
    return figure


@styled
def coded_figure(rows: Sequence[Coded], live: tuple[int, float] | None = None) -> Drawing:
    """Bits a code: as packed (grey), in Huffman streams with their tables (blue), at best (dark mark).

    `live`: (which row, bits a code) measured now.
    """
    figure, (ax,) = drawing(
        7.2, 0.8 + 0.36 * len(rows), alt="Huffman saves little after min/max groups, more after error bounds"
    )
    at = np.arange(len(rows))
    ax.barh(at, [r.plain for r in rows], 0.72, color=GRID)
    ax.barh(at, [r.total for r in rows], 0.4, color=[RUST if r.total > r.plain else COLOURS[0] for r in rows])
    ax.vlines([r.entropy for r in rows], at - 0.36, at + 0.36, color=INK, linewidth=1.8)
    for y, r in zip(at, rows, strict=True):
        end = max(r.plain, r.total)
        ax.annotate(f"{r.total:.2f} of {r.plain}", (end, y), (6, 0), textcoords="offset points", va="center")
    if live is not None:
        ax.plot(live[1], live[0], marker="*", markersize=13, color=INK, markeredgecolor="white", zorder=5)
    ax.set_yticks(at, [r.stage for r in rows])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.16)
    ax.set_xlabel("bits a code, tables and ends included (dark mark: entropy)")
    return figure


def quality_figure(found: Mapping[str, Point], star: tuple[str, float] | None = None) -> Drawing:
    """Bytes of a token against KL, needles and copying, for the families of this lesson.

    found: all points of the quality run. star: (method, the KL of one text measured now).
    """
    words = "bytes stored a token against KL, needles and copying: pruning lies above quantization"
    return price_figure(families(found), found["full"], words, "stored", star)
