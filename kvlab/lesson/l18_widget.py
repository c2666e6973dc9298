"""The widget of lesson 18: one query over the pages of a text; what it attends to, and what is chosen."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from ipywidgets import Dropdown, IntSlider
from torch import Tensor

import kvlab
from kvlab.selection.hashing import Directions
from kvlab.selection.quest import bounds, upper

from .l18_figures import pages_figure
from .style import BLUE, GRID, INK, RUST, Drawing, token_text
from .tables import card, inline, token_html
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

PAGE = 4
BITS = 128
METHODS = ("Quest's bound", "SimHash, nearest key", "mean key", "oracle")


@dataclass(frozen=True)
class Choice:
    """What a method makes of the whole pages that a query sees."""

    attention: list[float]  # on each page
    scores: list[float]  # of each page, as the method ranks it
    chosen: list[int]
    best: list[int]  # as many pages, by true attention
    captured: float  # chosen pages and the entries behind the last whole page
    bytes_read: int  # keys and values of one head, and what choosing read, in float32
    bytes_all: int

    @property
    def missed(self) -> list[int]:
        """Pages among the best that were not chosen."""
        return [page for page in self.best if page not in self.chosen]


class Pages:
    """A text after one pass: every query, every key, all attention."""

    def __init__(self, lm: Decoder, prompt: str) -> None:
        ids = lm.tokenizer.encode(prompt)
        self.tokens = [lm.tokenizer.decode([i]) for i in ids]
        with kvlab.record(lm) as rec:
            lm(torch.tensor([ids], device=lm.device), last_only=True)
        self.attention = [
            rec.attention[i][0].cpu() for i in sorted(rec.attention)
        ]  # [heads, queries, tokens]
        self.queries = [rec.queries[i][0].cpu() for i in sorted(rec.queries)]  # [heads, tokens, head_dim]
        self.keys = [rec.keys[i][0].cpu() for i in sorted(rec.keys)]  # [kv_heads, tokens, head_dim]
        self.group = lm.config.num_attention_heads // lm.config.num_key_value_heads

    def choose(self, method: str, layer: int, head: int, query: int, budget: int) -> Choice:
        """`budget` of the whole pages up to a query; what lies behind them is read always."""
        count = max(1, (query + 1) // PAGE)
        whole, budget = min(query + 1, count * PAGE), min(budget, count)
        q, keys = self.queries[layer][head, query], self.keys[layer][head // self.group, : query + 1]
        weights = self.attention[layer][head, query, : query + 1]
        if whole < PAGE:  # not one page is whole
            return Choice([1.0], [0.0], [0], [0], 1.0, 8 * keys.numel(), 8 * keys.numel())
        by_page = weights[:whole].view(-1, PAGE).sum(dim=1)
        scores, scored = page_scores(method, q, keys[:whole])
        chosen = scores.topk(budget).indices.sort().values.tolist()
        best = by_page.topk(budget).indices.tolist()
        read = 8 * q.numel() * (len(chosen) * PAGE + query + 1 - whole)  # a key and a value, 4 bytes a number
        captured = float(by_page[chosen].sum() + weights[whole:].sum())
        return Choice(
            by_page.tolist(), scores.tolist(), chosen, best, captured, read + scored, 8 * keys.numel()
        )


def page_scores(method: str, q: Tensor, keys: Tensor) -> tuple[Tensor, int]:
    """One score for each page of `keys [tokens, head_dim]`, and the bytes that the scores need to read."""
    pages = keys.view(-1, PAGE, keys.shape[1])
    if method == "oracle":
        exact = (keys @ q / keys.shape[1] ** 0.5).softmax(dim=0).view(-1, PAGE).sum(dim=1)
        return exact, 4 * keys.numel()
    if method == "mean key":
        return pages.mean(dim=1) @ q, 4 * pages[:, 0].numel()
    if method == "Quest's bound":
        held = bounds(keys[None, None], torch.ones(1, 1, len(keys), dtype=torch.bool), PAGE)
        return upper(q[None, None, None], held)[0, 0, 0], 4 * held.numel()
    signs = Directions(BITS, 0)(q)
    same = ((keys - keys.mean(dim=0)) @ signs > 0) == (q @ signs > 0)
    return same.sum(dim=1).view(-1, PAGE).amax(dim=1).float(), len(keys) * BITS // 8


def shown(story: Pages, method: str, budget: int, query: int, layer: int, head: int) -> str:
    """A row a page: its words, true attention, score; dark: chosen, red: missed. And the figures."""
    found = story.choose(method, layer, head, query, budget)
    low, high = min(found.scores), max(found.scores)
    rows = []
    for page, (weight, score) in enumerate(zip(found.attention, found.scores, strict=True)):
        words = token_html("".join(story.tokens[page * PAGE : min(query + 1, (page + 1) * PAGE)]))
        mark = "read" if page in found.chosen else "<strong>missed</strong>" if page in found.missed else ""
        colour = BLUE if page in found.chosen else RUST if page in found.missed else GRID
        rank = (score - low) / (high - low) if high > low else 1.0
        rows.append(
            f'<tr><td style="border-left:6px solid {colour};padding:0 6px">{page}</td>'
            f'<td style="padding:0 6px;font-family:monospace">{words}</td>'
            f"<td>{_bar(weight, BLUE)}</td><td>{_bar(rank, INK)}</td><td>{mark}</td></tr>"
        )
    names = ("page", "tokens", "true attention", "score, least 0, largest 1", "")
    head_row = "".join(f'<th style="padding:0 6px">{name}</th>' for name in names)
    table = f'<table style="font-size:12px;color:{INK}"><tr>{head_row}</tr>{"".join(rows)}</table>'
    line = (
        f"Query {query}, `{token_text(story.tokens[query])}`: {len(found.chosen)} of {len(rows)} pages read, "
        f"{len(found.missed)} of the best missed. Attention captured: **{found.captured:.2f}**. "
        f"Read {found.bytes_read:,} of {found.bytes_all:,} bytes: the pages, the entries behind "
        "the last whole page, and what the scores needed."
    )
    return card(inline(line) + table)


def _bar(share: float, colour: str) -> str:
    """A bar up to 120 pixels wide, and its number."""
    bar = (
        f'<span style="display:inline-block;height:9px;width:{120 * share:.0f}px;background:{colour}"></span>'
    )
    return f"{bar} {share:.2f}"


def picture(story: Pages, method: str, budget: int, query: int, layer: int, head: int) -> Drawing:
    """The same as a picture."""
    found = story.choose(method, layer, head, query, budget)
    return pages_figure(found.attention, found.scores, found.chosen, f"layer {layer}, head {head}: {method}")


class Choosing(Exhibit):
    """`.method`, `.budget`, `.query`, `.layer`, `.head` are controls; `.view.html.value` shows the pages."""

    def __init__(self, story: Pages, layer: int, head: int) -> None:
        heads, last = story.attention[0].shape[0], len(story.tokens) - 1
        self.method = Dropdown(options=list(METHODS), value=METHODS[0], description="method")
        self.budget = IntSlider(4, min=1, max=max(1, len(story.tokens) // PAGE), description="pages")
        self.query = IntSlider(last, min=0, max=last, description="query")
        self.layer = IntSlider(layer, min=0, max=len(story.attention) - 1, description="layer")
        self.head = IntSlider(head, min=0, max=heads - 1, description="head")
        controls = (self.method, self.budget, self.query, self.layer, self.head)
        self.view = live(functools.partial(shown, story), *controls)
        super().__init__(
            [*controls, self.view],
            title="Choose pages for a query",
            picture=functools.partial(picture, story, METHODS[0], 4, last, layer, head),
        )


def choosing(lm: Decoder, prompt: str, layer: int = 18, head: int = 6) -> Choosing:
    """The widget over one text; the layer and head it starts with."""
    layers, heads = lm.config.num_hidden_layers, lm.config.num_attention_heads
    return Choosing(Pages(lm, prompt), min(layer, layers - 1), min(head, heads - 1))
