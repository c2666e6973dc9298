"""The widget of lesson 17: a pattern over a real map, what it keeps, and what the model says then."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from ipywidgets import Dropdown, IntSlider
from torch import Tensor

from kvlab.selection import AShape, BigBird, Dilated, FixedColumns, LocalWindow, Pattern, Strided

from .l17 import allowed, log_probabilities, maps
from .l17_figures import overlay_figure
from .style import Drawing, token_text
from .tables import card, heat_table, inline
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

SHAPES: dict[str, Callable[[int], Pattern]] = {
    "window": LocalWindow,
    "sinks + recent": lambda n: AShape(2, max(1, n - 2)),
    "dilated by 2": lambda n: Dilated(n, 2),
    "strided": Strided,
    "columns": lambda n: FixedColumns(2 * n, max(1, n // 4)),
    "BigBird": lambda n: BigBird(max(1, n // 4), 2, 1, 1),
}


@dataclass
class Story:
    """A short text, and the model's attention over all of it."""

    lm: Decoder
    prompt: str

    def __post_init__(self) -> None:
        ids = self.lm.tokenizer.encode(self.prompt)
        self.ids = torch.tensor([ids], device=self.lm.device)
        self.tokens = [self.lm.tokenizer.decode([i]) for i in ids]
        self.maps = maps(self.lm, self.ids)  # [layers, heads, tokens, tokens]
        self.full = log_probabilities(self.lm, self.ids)[-1]
        self._next: dict[tuple[str, int], Tensor] = {}

    def pattern(self, name: str, size: int) -> Pattern:
        """A pattern of the list at a size."""
        return SHAPES[name](size)

    def next(self, name: str, size: int) -> Tensor:
        """Log-probabilities of the next word under a pattern, `[vocab]`; computed once."""
        if (name, size) not in self._next:
            found = log_probabilities(self.lm, self.ids, self.pattern(name, size))
            self._next[name, size] = found[-1]
        return self._next[name, size]

    def words(self, logs: Tensor, count: int = 3) -> str:
        """The most probable next words, in percent."""
        best = logs.exp().topk(count)
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return ", ".join(f"`{token_text(self.lm.tokenizer.decode([i]))}` {p:.0%}" for p, i in pairs)


@dataclass(frozen=True)
class Reading:
    """What the widget says of a state."""

    read: int  # entries that the last token reads
    of: int
    mass: float  # of the head that is shown
    all_heads: float  # mean over layers and heads
    bytes_read: int  # keys and values of all layers, for one more token, in float32
    kl: float


def reading(story: Story, name: str, size: int, layer: int, head: int) -> Reading:
    """The figures above the map."""
    mask = allowed(story.pattern(name, size), len(story.tokens))
    kept = (story.maps * mask).sum(dim=-1)[..., -1]  # [layers, heads], of the last token
    c, other = story.lm.config, story.next(name, size)
    read = int(mask[-1].sum())
    per_entry = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    kl = float((story.full.exp() * (story.full - other)).sum())
    return Reading(
        read, len(story.tokens), float(kept[layer, head]), float(kept.mean()), read * per_entry, kl
    )


def shown(story: Story, name: str, size: int, layer: int, head: int) -> str:
    """The figures, and the map with what is not read left empty, as HTML."""
    found = reading(story, name, size, layer, head)
    mask = allowed(story.pattern(name, size), len(story.tokens)).numpy()
    weights = np.where(mask, story.maps[layer, head].numpy(), np.nan)
    table = heat_table(
        weights, story.tokens, story.tokens, caption=f"layer {layer}, head {head}: {name}, size {size}"
    )
    lines = [
        f"The last token reads **{found.read} of {found.of}** entries, {found.bytes_read / 1e3:,.0f} KB. "
        f"On them lies {found.mass:.2f} of this head's attention, {found.all_heads:.2f} of all heads'.",
        f"Next word, everything read: {story.words(story.full)}",
        f"Next word, under the pattern: {story.words(story.next(name, size))}; KL {found.kl:.2f}",
    ]
    return card(inline("\n".join(lines))) + table  # the words first: they stay in sight


def picture(story: Story, name: str, size: int, layer: int, head: int) -> Drawing:
    """The same map as a picture."""
    mask = allowed(story.pattern(name, size), len(story.tokens))
    return overlay_figure(story.maps[layer, head], {f"{name} {size}": mask}, f"layer {layer}, head {head}")


class Patterns(Exhibit):
    """`.pattern`, `.size`, `.layer`, `.head` are the controls; `.view.html.value` shows the map."""

    def __init__(self, story: Story, layer: int, head: int) -> None:
        layers, heads = story.maps.shape[:2]
        self.pattern = Dropdown(options=list(SHAPES), value="window", description="pattern")
        self.size = IntSlider(8, min=1, max=len(story.tokens), description="size", continuous_update=False)
        self.layer = IntSlider(layer, min=0, max=layers - 1, description="layer")
        self.head = IntSlider(head, min=0, max=heads - 1, description="head")
        controls = (self.pattern, self.size, self.layer, self.head)
        self.view = live(functools.partial(shown, story), *controls)
        super().__init__(
            [*controls, self.view],
            title="Patterns: lay a mask over a real attention map",
            picture=functools.partial(picture, story, "window", 8, layer, head),
        )


def patterns(lm: Decoder, prompt: str, layer: int = 26, head: int = 3) -> Patterns:
    """The widget over the attention of `lm` on a short prompt."""
    last = lm.config.num_hidden_layers - 1, lm.config.num_attention_heads - 1
    return Patterns(Story(lm, prompt), min(layer, last[0]), min(head, last[1]))


__all__ = ["Patterns", "Reading", "Story", "patterns", "picture", "reading", "shown"]
