"""Forget one: a checkbox for each cached token, and what the model says next without its entry."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from ipywidgets import HTML, Box, Button, Checkbox, Layout
from torch import Tensor

import kvlab

from .style import BLUE, INK, QUIET, Drawing, drawing, styled, token_text
from .tables import card, token_html
from .widgets import Exhibit

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Words = list[tuple[str, float, float]]  # next word, its probability, and that with nothing forgotten


class Context:
    """A prefilled cache of all tokens of a text but the last, which asks what comes next."""

    def __init__(self, lm: Decoder, text: str) -> None:
        ids = lm.tokenizer.encode(text)
        self.lm, self.tokens = lm, [lm.tokenizer.token(i) for i in ids[:-1]]
        self.cache = kvlab.Cache(lm)
        lm(torch.tensor([ids[:-1]], device=lm.device), self.cache, last_only=True)
        self.last = torch.tensor([ids[-1:]], device=lm.device)
        self.last_token = lm.tokenizer.token(ids[-1])
        self._known: dict[tuple[int, ...], Words] = {}
        self.full = self.logits().softmax(dim=-1).tolist()  # probability of every word, nothing forgotten

    def logits(self, forgotten: Sequence[int] = ()) -> Tensor:
        """Logits `[vocab]` after the last token, where the cache has lost the entries `forgotten`."""
        cache = self.cache.fork()
        cache.forget(list(forgotten))
        return self.lm(self.last, cache)[0, -1]

    def words(self, forgotten: Sequence[int] = ()) -> Words:
        """The five most probable next words; remembered, so that the same question is answered at once."""
        key = tuple(sorted(forgotten))
        if key not in self._known:
            self._known[key] = self._top(self.logits(key))
        return self._known[key]

    @functools.cached_property
    def one_at_a_time(self) -> Tensor:
        """Logits `[cached tokens, vocab]`: row i without the entry of token i, all in one batch."""
        n = len(self.tokens)
        cache = self.cache.fork()
        cache.reorder([0] * n)  # n rows with the same past
        cache.forget(torch.arange(n)[:, None])  # row i forgets position i
        logits = self.lm(self.last.expand(n, 1), cache)[:, -1]
        for i in range(n):
            self._known[(i,)] = self._top(logits[i])
        return logits

    def _top(self, logits: Tensor) -> Words:
        best = logits.softmax(dim=-1).topk(5)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.lm.tokenizer.token(i), p, self.full[i]) for i, p in pairs]


def shown(context: Context, forgotten: Sequence[int]) -> str:
    """The text with what was forgotten struck out, and bars of the next words, as HTML."""
    gone = f"text-decoration:line-through;color:{QUIET}"
    text = "".join(
        f'<span style="{gone if i in forgotten else ""}">{token_html(t).replace("␣", " ")}</span>'
        for i, t in enumerate(context.tokens)
    )
    kept = len(context.tokens) - len(forgotten)
    size = context.cache.nbytes // len(context.tokens)
    head = f"<div>In the cache: {text}<br>Goes in now: <b>{token_html(context.last_token)}</b>. "
    head += f"{kept} of {len(context.tokens)} entries, {kept * size / 1e3:,.0f} KB.</div>"
    rows = [_row(word, p, was if forgotten else None) for word, p, was in context.words(forgotten)]
    style = f"border-spacing:6px 2px;border-collapse:separate;color:{INK};margin-top:6px"
    return card(f'{head}<table style="{style}"><tbody>{"".join(rows)}</tbody></table>')


def _row(word: str, p: float, before: float | None) -> str:
    bar = f'<div style="background:{BLUE};width:{260 * p:.0f}px;height:12px"></div>'
    was = "" if before is None else f"was {_percent(before)}"
    return (
        f'<tr><td style="text-align:right">{token_html(word)}</td><td style="width:270px">{bar}</td>'
        f'<td style="text-align:right">{_percent(p)}</td>'
        f'<td style="color:{QUIET};padding-left:12px">{was}</td></tr>'
    )


def _percent(p: float) -> str:
    return f"{p:.0%}" if p >= 0.005 else "under 1%"


@styled
def words_figure(panels: dict[str, Words]) -> Drawing:
    """The next words as bars, a panel for each title, for places where no widget runs."""
    alt = "; ".join(f"{name}: {words[0][0]!r} {words[0][1]:.0%}" for name, words in panels.items())
    figure, axes = drawing(3.7 * len(panels), 2.3, alt=alt, columns=len(panels))
    for ax, (name, words) in zip(axes, panels.items(), strict=True):
        ax.barh(range(len(words)), [p for _, p, _ in words], 0.62, color=BLUE)
        for y, (_, p, _) in enumerate(words):
            ax.annotate(f"{p:.0%}", (p, y), (5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(words)), [token_text(w) for w, *_ in words])
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("probability of the next word")
        ax.set_title(name, fontsize=10)
    return figure


class ForgetOne(Exhibit):
    """`.boxes[i].value = False` forgets token i; `.buttons["…"]` sets many at once; `.html.value` shows."""

    def __init__(self, context: Context, presets: dict[str, Sequence[int]], beside: str) -> None:
        self.context = context
        self.boxes = [self._box(token) for token in context.tokens]
        self.buttons = {name: Button(description=name, layout=Layout(width="auto")) for name in presets}
        for name, positions in presets.items():
            self.buttons[name].on_click(self._setter(tuple(positions)))
        self.html = HTML(layout=Layout(width="auto"))
        self._busy = False
        _ = context.one_at_a_time  # single tokens and presets are answered at once, all else by one step
        panels = {"nothing forgotten": context.words(), beside: context.words(presets[beside])}
        for positions in presets.values():
            context.words(positions)
        self._draw()
        boxes = Box(self.boxes, layout=Layout(flex_flow="row wrap"))
        title = "Forget one: tick off cached tokens and see the next word"
        row = Box(list(self.buttons.values()), layout=Layout(flex_flow="row wrap"))
        super().__init__(
            [row, boxes, self.html], title=title, picture=functools.partial(words_figure, panels)
        )

    @property
    def forgotten(self) -> list[int]:
        """Positions whose box is not ticked."""
        return [i for i, box in enumerate(self.boxes) if not box.value]

    def forget(self, positions: Sequence[int]) -> None:
        """Forget these and keep all others; drawn once."""
        self._busy = True
        try:
            for i, box in enumerate(self.boxes):
                box.value = i not in positions
        finally:
            self._busy = False
        self._draw()

    def _box(self, token: str) -> Checkbox:
        box = Checkbox(value=True, description=token_text(token), indent=False)
        box.layout = Layout(width="max-content", margin="0 14px 0 0")
        box.observe(lambda _change: self._draw(), names="value")
        return box

    def _setter(self, positions: tuple[int, ...]) -> Callable[[Button], None]:
        return lambda _button: self.forget(positions)

    def _draw(self) -> None:
        if not self._busy:
            self.html.value = shown(self.context, self.forgotten)


def forget_one(context: Context, presets: dict[str, Sequence[int]], beside: str) -> ForgetOne:
    """The widget over a `Context`.

    presets: buttons, a name and the positions that it forgets; beside: which of them the fallback picture
    shows beside the full cache.
    """
    return ForgetOne(context, presets, beside)
