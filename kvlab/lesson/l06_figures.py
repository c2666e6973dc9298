"""The figures of lesson 06; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .figures import Line, as_array, curves
from .style import BLUE, COLOURS, INK, QUIET, Drawing, dark_text, direct_labels, drawing, styled, token_text

RANKS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)


def by_rank(distributions: Mapping[str, Tensor]) -> Drawing:
    """Probability against rank, both logarithmic; a line for each distribution `[vocab]`."""
    ranks = [rank for rank in RANKS if rank <= min(map(len, distributions.values()))]
    at = [rank - 1 for rank in ranks]
    lines = [Line(name, p.sort(descending=True).values.double()[at]) for name, p in distributions.items()]
    alt = "probability of the next token against its rank, for " + ", ".join(distributions)
    x, y = "rank of the token", "probability"
    return curves(ranks, lines, x_label=x, y_label=y, log_x=True, log_y=True, alt=alt)


@styled
def on_a_line(words: Sequence[str], probabilities: Sequence[float], marks: Sequence[float]) -> Drawing:
    """The interval from 0 to 1 cut into one piece for each token; marks are the numbers drawn."""
    alt = "probabilities side by side from 0 to 1, and random numbers on them"
    figure, (ax,) = drawing(8.2, 1.5, alt=alt)
    left = 0.0
    for i, (word, p) in enumerate(zip(words, probabilities, strict=True)):
        ax.barh(0, p, left=left, height=0.8, color=BLUE, alpha=(0.45, 0.25)[i % 2], edgecolor="white")
        if p > 0.035:
            ax.text(left + p / 2, 0, token_text(word), ha="center", va="center", fontsize=8.5, rotation=90)
        left += p
    ax.plot(marks, [0.62] * len(marks), "v", color=INK, markersize=9, clip_on=False)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.45, 0.75)
    ax.set_yticks([])
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("u")
    return figure


def kept_figure(temperatures: Sequence[float], counts: Mapping[str, Sequence[int]]) -> Drawing:
    """Tokens that each filter keeps, against the temperature; logarithmic."""
    lines = [Line(name, values) for name, values in counts.items()]
    alt = "tokens kept against the temperature: " + ", ".join(counts)
    return curves(temperatures, lines, x_label="temperature", y_label="tokens kept", log_y=True, alt=alt)


@styled
def chances(texts: Mapping[str, Tensor], alt: str) -> Drawing:
    """The probability of every chosen token along a text `[new]`, a panel for each text."""
    figure, axes = drawing(7.6, 1.45 * len(texts) + 0.5, alt=alt, rows=len(texts), sharex=True)
    for ax, (name, values), colour in zip(axes, texts.items(), COLOURS, strict=False):
        y = as_array(values)
        ax.bar(np.arange(1, len(y) + 1), y, 0.8, color=colour)
        ax.set_ylim(0, 1.02)
        ax.set_ylabel("probability")
        ax.set_title(name, fontsize=10, color=dark_text(colour))
        ax.grid(axis="x", visible=False)
    axes[-1].set_xlabel("new token")
    return figure


@styled
def errors_figure(errors: Mapping[str, Sequence[float]], bound: float) -> Drawing:
    """The largest logit error of every step, logarithmic; what is below `bound` (rounding) is drawn at it."""
    figure, (ax,) = drawing(6.4, 3.2, alt="largest logit error of each step: " + ", ".join(errors))
    ends = []
    for (name, values), colour in zip(errors.items(), COLOURS, strict=False):
        y = np.maximum(as_array(values), bound)
        ax.plot(np.arange(1, len(y) + 1), y, "o-", color=colour, markersize=4, linewidth=1.8)
        ends.append((float(y[-1]), name, colour))
    ax.set_yscale("log")
    ax.set_ylim(bound / 2, 40)
    ax.axhspan(bound / 2, 1e-3, color=QUIET, alpha=0.12, linewidth=0)
    place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "fontsize": 8.5, "color": QUIET}
    ax.text(0.3, 4e-4, "rounding in float32", **place)
    ax.set_xlabel("new token")
    ax.set_ylabel("largest logit error")
    direct_labels(ax, ends)
    return figure
