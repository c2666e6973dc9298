"""The figures of lesson 19; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .chart_points import Point
from .judged_figures import price_figure
from .l19 import families
from .style import (
    BLUE,
    GREEN,
    INK,
    MEASURED,
    OCHRE,
    PLUM,
    QUIET,
    RUST,
    Drawing,
    direct_labels,
    drawing,
    styled,
)

if TYPE_CHECKING:
    from .l19 import Pupil

LOOK = {
    "oracle": INK, "oracle by head": PLUM, "indexer": BLUE, "gate": GREEN, "Quest": OCHRE,
    "sinks + recent": RUST,
}  # fmt: skip
BIN = 8  # tokens of one bar


@styled
def by_layer(masses: Mapping[str, Sequence[float]], share: float) -> Drawing:
    """Attention held by layer: the oracle dashed, the others measured."""
    words = (
        "attention held by layer: the indexer follows the oracle everywhere, sinks and recent tokens only "
    )
    figure, (ax,) = drawing(7.4, 3.8, alt=f"{words}in later layers")
    ends = []
    for name, values in masses.items():
        ax.plot(range(len(values)), values, color=LOOK[name], linestyle="--" if name == "oracle" else "-")
        ends.append((float(values[-1]), name, LOOK[name]))
    ax.set_ylim(0, 1)
    ax.set_xlabel("layer")
    ax.set_ylabel(f"attention on {share:.0%} of the entries")
    direct_labels(ax, ends, gap=13)
    return figure


@styled
def loss_curve(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Drawing:
    """Mean KL divergence of 20 steps against the steps."""
    figure, (ax,) = drawing(
        6.4, 3.2, alt="the divergence from the model's attention falls steeply, then slowly"
    )
    ends = []
    for name, points in curves.items():
        x, y = zip(*points, strict=True)
        ax.plot(x, y, color=LOOK[name], **(MEASURED | {"markersize": 3}))
        ends.append((float(y[-1]), name, LOOK[name]))
    ax.set_yscale("log")
    ax.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    ax.minorticks_off()
    ax.set_xlabel("training steps")
    ax.set_ylabel("KL divergence (nats)")
    direct_labels(ax, ends, gap=13)
    return figure


@styled
def pupil_figure(pupil: Pupil, row: int) -> Drawing:
    """Left: one query's attention over the text, what is picked and what is missed. Right: progress."""
    figure, (ax, right) = drawing(
        9.0, 3.2, alt="one query's attention over the text, picked and missed; and the attention held "
        "against training steps", columns=2, width_ratios=(3, 2),
    )  # fmt: skip
    attention, picked = pupil.chosen(row)
    bars = bins(attention.numpy() * picked.numpy()), bins(attention.numpy() * ~picked.numpy())
    x = np.arange(len(bars[0])) * BIN
    ax.bar(x, bars[0], BIN, align="edge", color=BLUE, label="picked")
    ax.bar(x, bars[1], BIN, bottom=bars[0], align="edge", color=RUST, label="missed")
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.01, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
    ax.set_xlabel(f"position, {BIN} tokens a bar")
    ax.set_ylabel("attention")
    held = float(attention[picked].sum())
    ax.set_title(f"picked (blue) holds {held:.0%}, missed: rust", loc="left", fontsize=9.5)
    steps, masses = zip(*pupil.history, strict=True)
    right.plot(steps, masses, color=BLUE, **MEASURED)
    for name, value in pupil.yardsticks(0.1).items():
        right.axhline(value, color=LOOK[name], linestyle="--", linewidth=1.3)
        right.text(400, value, name, color=LOOK[name], fontsize=8.5, ha="right", va="bottom")
    right.set_xlim(0, 400)
    right.set_ylim(0, 1)
    right.set_xlabel("training steps")
    right.set_ylabel("attention on a tenth, held-out text")
    right.set_title(f"layer {pupil.layer}", loc="right", fontsize=9, color=QUIET)
    return figure


def losses_figure(found: Mapping[str, Point], star: tuple[str, float] | None = None) -> Drawing:
    """Bytes read against KL, needles and copying. star: (method, the KL of one text measured now)."""
    words = "bytes read a step against KL, needles found and tokens copied, for learned and other choices"
    return price_figure(families(found), found["full"], words, "read", star)


def bins(values: np.ndarray) -> np.ndarray:
    """Sums of `BIN` neighbours."""
    return np.add.reduceat(values, np.arange(0, len(values), BIN))
