"""The figures of lesson 15; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from .l14 import Seen
from .l15 import KINDS, Basis, kind
from .style import BLUE, INK, OCHRE, QUIET, RUST, Drawing, dark_text, drawing, halo, styled

OWN, DOCS, STORY = QUIET, BLUE, RUST


@styled
def cloud_figure(x: Tensor) -> Drawing:
    """Vectors of one head `x [tokens, dim]`: across, their mean; up, their strongest direction."""
    figure, (ax,) = drawing(5.6, 3.0, alt="keys of one head: a cloud that lies far from zero")
    basis = Basis.of(x[None, None])
    mean = basis.mean[0, 0]
    along = mean / mean.norm()
    other = basis.directions[0, 0, :, 0]
    other = other - (other @ along) * along
    across, up = x.double() @ along, x.double() @ (other / other.norm())
    ax.plot(across, up, "o", color=BLUE, markersize=3, alpha=0.5, linewidth=0)
    ax.plot(0, 0, "+", color=INK, markersize=14, markeredgewidth=2)
    ax.annotate("zero", (0, 0), (-4, 9), textcoords="offset points", color=INK, ha="center")
    arrow = {"arrowstyle": "-|>", "color": RUST, "linewidth": 2}
    ax.annotate("", (float(mean.norm()), 0), (0, 0), arrowprops=arrow)
    ax.annotate("mean", (float(mean.norm()) / 2, 0), (0, 6), textcoords="offset points",
                color=dark_text(RUST), fontweight="bold", ha="center")  # fmt: skip
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("along the mean")
    ax.set_ylabel("strongest direction about it")
    return figure


@styled
def energy_figure(taught: Seen, pages: Mapping[str, Seen], rank: int = 16) -> Drawing:
    """Share of the centred squares that comes back against the rank, by stream and by whose basis it is."""
    words = (
        "energy against rank: most for keys before rotary, least for values; a basis of other text has less"
    )
    figure, axes = drawing(9.2, 3.6, alt=words, columns=3, sharey=True)
    for ax, name in zip(axes, KINDS, strict=True):
        learned = Basis.of(kind(taught, name))
        curves = [("own", Basis.of(kind(pages["docs"], name)).energy(kind(pages["docs"], name)), OWN)]
        for page, colour in (("docs", DOCS), ("story", STORY)):
            curves.append((page, learned.energy(kind(pages[page], name)), colour))
        for label, y, colour in curves:
            style = (0, (5, 3)) if label == "own" else "-"
            ax.plot(np.arange(len(y)), y, color=colour, linewidth=1.8, linestyle=style)
            ax.plot(rank, float(y[rank]), "o", color=colour, markersize=5)
            place = ((-4, 4), "right") if label == "own" else ((5, -11), "left")
            ax.annotate(
                f"{float(y[rank]):.2f}", (rank, float(y[rank])), place[0], textcoords="offset points",
                ha=place[1], fontsize=9, color=dark_text(colour), path_effects=[halo()],
            )  # fmt: skip
        ax.set_title(name, fontsize=10)
        ax.set_ylim(0, 1.03)
        ax.set_xticks(range(0, len(curves[0][1]), 16))
        ax.set_xlabel("rank")
    axes[0].set_ylabel("energy that comes back")
    lines = axes[2].lines[::2]
    names = ["its own basis (docs)", "docs, basis of other docs", "story, basis of docs"]
    figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


@styled
def together_figure(found: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Drawing:
    """Error of keys and of values against numbers a token and layer, for bases of one head up to all."""
    figure, axes = drawing(
        8.6,
        3.3,
        alt="error against numbers cached: the more share a basis, the smaller it is",
        columns=2,
        sharey=True,
    )
    for ax, stream, name in zip(axes, (1, 2), ("keys before rotary", "values"), strict=True):
        for (way, one), colour in zip(found.items(), (RUST, OCHRE, BLUE), strict=True):
            ax.plot(one[0], one[stream], color=colour, linewidth=1.8, label=way)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("numbers a token and layer")
        ax.set_xticks(range(0, 385, 96))
        ax.set_ylim(0, 1)
    axes[0].set_ylabel("relative error")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
