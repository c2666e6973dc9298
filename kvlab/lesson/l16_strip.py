"""The strip: every token of a prompt, shaded by how many heads keep it under a policy; needles are boxed."""

from __future__ import annotations

import functools
from html import escape
from typing import TYPE_CHECKING

import torch
from ipywidgets import Dropdown, IntSlider, SelectionSlider
from torch import Tensor

from .l16 import Watched, policies
from .style import INK, QUIET, RUST, Drawing, drawing, styled
from .tables import card, inline
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.eviction import Eviction

SHARES = {"100 %": 1.0, "50 %": 0.5, "25 %": 0.25, "12 %": 0.125}


def strip(watched: Watched) -> Exhibit:
    """The widget: policy, layer, head, budget."""
    heads = watched.attention[0].shape[0]
    policy = Dropdown(options=list(policies(64, watched.layers)), value="H2O", description="policy")
    layer = IntSlider(description="layer", value=watched.layers // 2, max=watched.layers - 1)
    head = Dropdown(options=["all", *map(str, range(heads))], description="KV head")
    budget = SelectionSlider(options=list(SHARES), value="25 %", description="budget")

    @functools.lru_cache(maxsize=64)
    def made(name: str, share: str) -> Eviction:
        return policies(max(16, int(SHARES[share] * len(watched.ids))), watched.layers)[name]

    def show(name: str, layer: int, head: str, share: str) -> str:
        kept = watched.kept(made(name, share), layer)
        kept = kept if head == "all" else kept[int(head)][None]
        return strip_html(watched, kept)

    view = live(show, policy, layer, head, budget)
    return Exhibit(
        [policy, layer, head, budget, view],
        title="Who is kept?",
        picture=lambda: who_stays(watched, layer=watched.layers // 2),
    )


def strip_html(watched: Watched, kept: Tensor) -> str:
    """All tokens as text; `kept [heads, tokens]`, bool. Dark: kept by all of these heads; struck: by none."""
    share = kept.float().mean(dim=0).tolist()
    digits = {i for span in watched.needles for i in range(*span)}
    spans = []
    for i, (word, part) in enumerate(zip(watched.words, share, strict=True)):
        style = f"background:rgba(36,58,234,{0.75 * part:.2f});color:{'#fff' if part > 0.6 else INK};"
        if not part:
            style = f"color:{QUIET};text-decoration:line-through;opacity:.55;"
        if i in digits:
            style += f"outline:2px solid {RUST};"
        title = f"position {i}: kept by {part * len(kept):.0f} of {len(kept)} head(s)"
        style += "display:inline-block;padding:1px 2px;margin:1px;line-height:1.3"  # a line may break between
        spans.append(f'<span style="{style}" title="{title}">{escape(word)}</span>')
    here = sum(int(kept[:, i].sum()) for i in digits)
    line = (
        f"{int(kept.sum(1).float().mean().round())} of {len(share)} entries a head stay; "
        f"of the needles' {len(digits)} tokens, {here} of {len(digits) * len(kept)} entries (boxed)."
    )
    words = f'<div style="font-family:monospace;font-size:12px;margin-top:6px">{"".join(spans)}</div>'
    return card(inline(line) + words)


@styled
def who_stays(watched: Watched, layer: int, share: float = 0.25) -> Drawing:
    """One row a policy, one column a token: the share of KV heads that keep it. Needles between red lines."""
    budget = max(16, int(share * len(watched.ids)))
    rows = policies(budget, watched.layers)
    kept = torch.stack([watched.kept(policy, layer).float().mean(dim=0) for policy in rows.values()])
    figure, (ax,) = drawing(8.2, 3.1, alt="who stays: a row for each policy, a column for each token")
    ax.imshow(kept.numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
    for start, stop in watched.needles:
        for edge in (start - 0.5, stop - 0.5):
            ax.axvline(edge, color=RUST, linewidth=1)
        ax.text((start + stop) / 2, -0.7, "needle", color=RUST, ha="center", fontsize=8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_xlabel("position in the prompt")
    ax.set_title(f"layer {layer}, {budget} of {len(watched.ids)} entries a head", pad=18)
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    return figure
