"""The gauge: a real static cache filled to any point, its slots, its counters, and what it refuses."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from ipywidgets import Dropdown, IntSlider

import kvlab

from .l08 import enlarged, greedy
from .style import (
    BACKGROUND,
    BLUE,
    GREEN,
    GRID,
    INK,
    OCHRE,
    QUIET,
    RUST,
    Drawing,
    dark_text,
    drawing,
    styled,
    token_text,
)
from .tables import card, inline, token_html
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


class Text:
    """A prompt and what the model says after it, computed once; `cache` holds all of it, token by token."""

    def __init__(self, lm: Decoder, prompt: str, new: int) -> None:
        self.lm, ids = lm, lm.tokenizer.encode(prompt)
        self.prompt = len(ids)
        self.cache = kvlab.Cache(lm)
        ids += greedy(lm, self.cache, ids, new)
        lm(torch.tensor([ids[-1:]], device=lm.device), self.cache, last_only=True)
        self.tokens = [lm.tokenizer.token(i) for i in ids]

    def filled(self, n: int, capacity: int) -> kvlab.Cache:
        """A static cache of `capacity` slots with the first `n` tokens in it."""
        source = self.cache.fork()
        source.crop(n)
        return enlarged(self.lm, source, capacity)


@dataclass(frozen=True)
class Reading:
    """What the gauge reads off the cache."""

    used: int
    capacity: int
    remaining: int
    stored: int  # bytes
    allocated: int
    state: str  # "fine", "warn" or "refused"
    says: str


def read(text: Text, tokens: int, capacity: int, warn: int) -> Reading:
    """Fill a cache of `capacity` slots with the first `tokens` tokens, as far as they go in."""
    cache = text.filled(min(tokens, capacity), capacity)
    remaining = cache.remaining or 0
    state, says = "fine", f"{remaining} slots left; the warning comes at {warn}"
    try:
        cache.require(max(1, tokens - capacity))
    except kvlab.CacheError as error:
        state, says = "warn", "full: the next token will be refused"
        if tokens > capacity:
            state, says = "refused", f"CacheError: {error}"
    else:
        if remaining <= warn:
            state, says = "warn", f"only {remaining} slots left: stop soon, or move into a larger cache"
    return Reading(cache.used, capacity, remaining, cache.nbytes, cache.allocated_bytes, state, says)


_EDGE = {"fine": GREEN, "warn": OCHRE, "refused": RUST}


def shown(text: Text, tokens: int, capacity: int, warn: int) -> str:
    """Slots with their tokens, the bar, and the counters, as HTML."""
    found = read(text, tokens, capacity, warn)
    slots = "".join(_slot(text, i, found.used) for i in range(capacity))
    out = "".join(_slot(text, i, 0, refused=True) for i in range(capacity, tokens))
    counts = (
        f"`cache.remaining` = {found.remaining} of {capacity} slots; stored {found.stored / 1e3:,.0f} KB, "
    )
    counts += f"allocated {found.allocated / 1e3:,.0f} KB ({found.stored / found.allocated:.0%} in use)."
    says = f'<div style="color:{INK}"><strong>{inline(found.says)}</strong></div>'
    return card(f"<div>{slots}{out}</div><div>{inline(counts)}</div>{says}", _EDGE[found.state])


def _slot(text: Text, i: int, used: int, refused: bool = False) -> str:
    """One slot: taken (blue: prompt, green: generated), free, or a token that did not get in."""
    face, ink, word, edge = BACKGROUND, QUIET, "·", f"1px solid {GRID}"
    if refused:
        ink, word, edge = RUST, token_html(text.tokens[i]), f"1px dashed {RUST}"
    elif i < used:
        face, ink, word = (BLUE if i < text.prompt else GREEN), "#FFFFFF", token_html(text.tokens[i])
    style = "display:inline-block;min-width:1.6em;text-align:center;margin:1px;padding:1px 4px;font-size:12px"
    return f'<span style="{style};border:{edge};background:{face};color:{ink}" title="slot {i}">{word}</span>'


@styled
def gauge_figure(text: Text, tokens: int, capacity: int, warn: int, columns: int = 12) -> Drawing:
    """The slots as a picture, for places where no widget runs."""
    found = read(text, tokens, capacity, warn)
    rows = -(-max(capacity, tokens) // columns)
    alt = f"a cache of {capacity} slots with {found.used} tokens in it; {found.says}"
    figure, (ax,) = drawing(8.2, 0.9 + 0.36 * rows, alt=alt)
    for i in range(max(capacity, tokens)):
        x, y, inside, over = i % columns, i // columns, i < found.used, i >= capacity
        face = (BLUE if i < text.prompt else GREEN) if inside else BACKGROUND
        edge, dash = (RUST, "--") if over else (QUIET, "-")
        ax.barh(y, 0.94, 0.8, left=x, color=face, edgecolor=edge, linewidth=0.8, linestyle=dash)
        word = token_text(text.tokens[i]) if inside or over else ""
        word = word if len(word) < 11 else word[:9] + "…"
        ink = "white" if inside else RUST
        ax.text(x + 0.47, y, word, ha="center", va="center", fontsize=7.5, color=ink)
    ax.invert_yaxis()
    ax.axis("off")
    ax.set_title(found.says.split(";")[0], fontsize=10, color=dark_text(_EDGE[found.state]))
    return figure


class Gauge(Exhibit):
    """`.tokens`, `.capacity`, `.warn` are the controls; `.view.html.value` shows the cache."""

    def __init__(self, text: Text, tokens: int, capacity: int, warn: int) -> None:
        most = len(text.tokens)
        self.tokens = IntSlider(tokens, min=0, max=most, description="tokens")
        self.capacity = Dropdown(options=[8, 16, 24, 32, 48], value=capacity, description="capacity")
        self.warn = IntSlider(warn, min=0, max=16, description="warn at")
        self.view = live(functools.partial(shown, text), self.tokens, self.capacity, self.warn)
        super().__init__(
            [self.tokens, self.capacity, self.warn, self.view],
            title="Gauge: fill a static cache and watch what is left",
            picture=functools.partial(gauge_figure, text, tokens, capacity, warn),
        )


def gauge(text: Text, tokens: int = 21, capacity: int = 24, warn: int = 4) -> Gauge:
    """The widget over a `Text`: how many tokens have come, how many slots there are, when to warn."""
    return Gauge(text, tokens, capacity, warn)
