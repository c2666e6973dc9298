"""The widget of lesson 06: the next token of a real text, before and after temperature and filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipywidgets import Button, Dropdown, FloatSlider, HBox, Layout, SelectionSlider, VBox
from torch import Tensor

from kvlab.sampling import Sampling

from .l06 import entropy, kept, next_logits, steps
from .style import BLUE, INK, QUIET, RUST, Drawing, drawing, styled, token_text
from .tables import card, token_html
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

TOP_K = ("off", 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
SHOWN = 14  # tokens in the table
BAR = 420  # pixels of a bar of probability 1


@dataclass(frozen=True)
class Text:
    """The next-token distribution of one text, sorted: logits `[vocab]`, and the words of the first few."""

    logits: Tensor
    words: list[str]


def prepare(lm: Decoder, text: str) -> Text:
    """Compute a text's distribution once; moving a slider afterwards costs no model."""
    logits, order = next_logits(lm, text).sort(descending=True)
    return Text(logits, [lm.tokenizer.token(int(i)) for i in order[:SHOWN]])


@dataclass(frozen=True)
class Found:
    """What a sampler makes of a `Text`; `before` and `after` are `[vocab]`, sorted as the text's logits."""

    before: Tensor  # at temperature 1, nothing filtered
    after: Tensor  # what is drawn from
    left: dict[str, int]  # tokens left after each filter that is on
    dropped: list[str | None]  # by which step, for each shown word

    @property
    def mass(self) -> float:
        """The share of the model's own probability that the kept tokens have."""
        return float(self.before[self.after > 0].sum())


def examine(text: Text, sampling: Sampling) -> Found:
    """Take the sampler's steps one by one."""
    logits = text.logits[None]
    left: dict[str, int] = {}
    dropped: list[str | None] = [None] * len(text.words)
    for name, step in steps(sampling).items():
        logits = step(logits)
        if name != "temperature":  # which drops nothing
            left[name] = kept(logits)
        for i in range(len(dropped)):
            if dropped[i] is None and logits[0, i] == float("-inf"):
                dropped[i] = name
    if sampling.temperature == 0:
        left, dropped = {"greedy": 1}, [None] + ["greedy"] * (len(dropped) - 1)
    return Found(text.logits.softmax(0), sampling.probabilities(text.logits[None])[0], left, dropped)


def shown(text: Text, found: Found) -> str:
    """The table and its figures as HTML."""
    vocab = len(found.after)
    left = "".join(f" → {name} {count:,}" for name, count in found.left.items())
    lines = [
        f"tokens: {vocab:,}{left}",
        f"kept: <b>{int((found.after > 0).sum()):,}</b>, which have {found.mass:.1%} of the model's own "
        "probability",
        f"entropy: {entropy(found.before):.2f} nats at temperature 1, <b>{entropy(found.after):.2f}</b> now",
    ]
    rows = [
        _row(word, float(found.before[i]), float(found.after[i]), found.dropped[i])
        for i, word in enumerate(text.words)
    ]
    n = len(rows)
    rest = f"{float(found.before[n:].sum()):.1%} → <b>{float(found.after[n:].sum()):.1%}</b>"
    more = f'<div style="color:{QUIET}">all other tokens together: {rest}</div>'
    head = "".join(f'<th scope="col" style="text-align:{side}">{name}</th>' for name, side in _COLUMNS)
    style = f"border-spacing:6px 1px;border-collapse:separate;color:{INK};line-height:1.35"
    table = f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return card("".join(f"<div>{line}</div>" for line in lines) + table + more)


_COLUMNS = (("token", "right"), ("", "left"), ("before", "right"), ("after", "right"), ("dropped by", "left"))


def _row(word: str, before: float, after: float, dropped: str | None) -> str:
    bars = (
        f'<div style="background:{QUIET};opacity:.45;width:{BAR * before:.0f}px;height:5px"></div>'
        f'<div style="background:{BLUE};width:{BAR * after:.0f}px;height:8px"></div>'
    )
    look = f"color:{QUIET};text-decoration:line-through" if dropped else ""
    return (
        f'<tr><td style="text-align:right;{look}">{token_html(word)}</td>'
        f'<td style="width:{BAR}px">{bars}</td>'
        f'<td style="text-align:right;color:{QUIET}">{before:.1%}</td>'
        f'<td style="text-align:right"><b>{after:.1%}</b></td>'
        f'<td style="color:{RUST}">{dropped or ""}</td></tr>'
    )


@styled
def sampler_figure(panels: Sequence[tuple[str, Text, Found]]) -> Drawing:
    """Bars of the first tokens before (grey) and after (blue), a panel each, where no widget runs."""
    alt = "next tokens before and after temperature and filters: " + "; ".join(name for name, *_ in panels)
    figure, axes = drawing(3.2 * len(panels), 3.8, alt=alt, columns=len(panels))
    for ax, (name, text, found) in zip(axes, panels, strict=True):
        n = len(text.words)
        before, after = (p[:n].tolist() for p in (found.before, found.after))
        ax.barh([i - 0.2 for i in range(n)], before, 0.3, color=QUIET, alpha=0.45, label="before")
        ax.barh([i + 0.18 for i in range(n)], after, 0.42, color=BLUE, label="after")
        for i, p in enumerate(after):
            words = "dropped" if found.dropped[i] else f"{p:.1%}"
            ink = QUIET if found.dropped[i] else INK
            look: dict[str, Any] = {
                "textcoords": "offset points",
                "va": "center",
                "fontsize": 8,
                "color": ink,
            }
            ax.annotate(words, (max(p, before[i]), i), (5, 0), **look)
        ax.set_yticks(range(n), [token_text(w) for w in text.words], fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.22)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("probability (grey: before)")
        ax.set_title(f"{name}: {int((found.after > 0).sum()):,} kept", fontsize=9.5)
    return figure


PRESETS: dict[str, tuple[float, int | str, float, float]] = {  # temperature, top-k, top-p, min-p
    "as it is": (1.0, "off", 1.0, 0.0),
    "greedy": (0.0, "off", 1.0, 0.0),
    "T 1, top-p .9": (1.0, "off", 0.9, 0.0),
    "T 1.5, top-p .9": (1.5, "off", 0.9, 0.0),
    "T 1.5, min-p .1": (1.5, "off", 1.0, 0.1),
}


def setting(temperature: float, top_k: int | str, top_p: float, min_p: float) -> Sampling:
    """The sampler of four controls; top-k "off", top-p 1 and min-p 0 turn a filter off."""
    return Sampling(
        round(temperature, 2),
        None if isinstance(top_k, str) else top_k,
        round(top_p, 2) if top_p < 1 else None,
        round(min_p, 2) if min_p > 0 else None,
    )


class Sampler(Exhibit):
    """Controls `.prompt`, `.temperature`, `.top_k`, `.top_p`, `.min_p`, `.buttons[…]`; `.view.html` shows."""

    def __init__(self, lm: Decoder, prompts: Sequence[str]) -> None:
        self.texts = {prompt: prepare(lm, prompt) for prompt in prompts}
        self.prompt = Dropdown(description="prompt", options=list(prompts), layout=_WIDE, style=_LABEL)
        self.temperature = _slider("temperature", 1.0, 0, 2, 0.05)
        self.top_k = SelectionSlider(
            description="top-k", options=TOP_K, value="off", layout=_WIDE, style=_LABEL
        )
        self.top_p = _slider("top-p", 0.9, 0.05, 1, 0.05)
        self.min_p = _slider("min-p", 0, 0, 0.5, 0.01)
        self.buttons = {name: Button(description=name, layout=Layout(width="auto")) for name in PRESETS}
        for name, values in PRESETS.items():
            self.buttons[name].on_click(lambda _button, values=values: self.set(*values))
        self._knobs = (self.temperature, self.top_k, self.top_p, self.min_p)
        self._moving = False
        self.view = live(self._draw, self.prompt, *self._knobs)
        buttons = HBox(list(self.buttons.values()), layout=Layout(flex_flow="row wrap"))
        controls = VBox([self.prompt, *self._knobs, buttons])
        title = "Sampler: the next token, before and after temperature and filters"
        super().__init__([controls, self.view], title=title, picture=self._picture)

    def set(self, temperature: float, top_k: int | str, top_p: float, min_p: float) -> None:
        """Move all four knobs; drawn once."""
        self._moving = True
        try:
            for knob, value in zip(self._knobs, (temperature, top_k, top_p, min_p), strict=True):
                knob.value = value
        finally:
            self._moving = False
        self.view.refresh()

    def _draw(
        self, prompt: str, temperature: float, top_k: int | str, top_p: float, min_p: float
    ) -> str | None:
        if self._moving:
            return None
        text = self.texts[prompt]
        return shown(text, examine(text, setting(temperature, top_k, top_p, min_p)))

    def _picture(self) -> Drawing:
        text = next(iter(self.texts.values()))
        names = ("T 1, top-p .9", "T 1.5, top-p .9", "T 1.5, min-p .1")
        return sampler_figure([(name, text, examine(text, setting(*PRESETS[name]))) for name in names])


_WIDE, _LABEL = Layout(width="34em"), {"description_width": "7em"}


def _slider(name: str, value: float, low: float, high: float, step: float) -> FloatSlider:
    look: dict[str, Any] = {"description": name, "layout": _WIDE, "style": _LABEL}
    return FloatSlider(value=value, min=low, max=high, step=step, **look)
