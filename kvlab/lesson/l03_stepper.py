"""The stepper of lesson 03: naive and cached decoding side by side, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from ipywidgets import Button, Checkbox, HBox, IntSlider, Layout
from matplotlib.patches import Rectangle

from .l03_steps import Cell, Side, Trace, counters, grid, total
from .style import BACKGROUND, BLUE, GREEN, INK, OCHRE, QUIET, RUST, Drawing, drawing, styled, token_text
from .tables import card, plain_table, token_html
from .widgets import Exhibit, live

NAMES: dict[Side, str] = {
    "naive": "Naive: all tokens go in",
    "cached": "With a cache: only what is new goes in",
}
KEY = (
    (BLUE, "c", "computed now, for the first time"),
    (RUST, "c", "computed again: the numbers are the same as before"),
    (GREEN, "r", "read: the newest query attends to it"),
    (OCHRE, "w", "written into the cache"),
)


def draw(found: Trace, step: int, own: bool = True) -> str:
    """The whole view as HTML."""
    tokens = found.tokens[: found.prompt + step]
    key = " &nbsp; ".join(f'<b style="color:{c}">{letter}</b> {text}' for c, letter, text in KEY)
    sides = []
    for side, name in NAMES.items():
        rows = grid(side, found.prompt, step, own or side == "naive")
        sides.append(f"<div><b>{name}</b>{_table(tokens, rows)}</div>")
    pair = f'<div style="display:flex;gap:40px;flex-wrap:wrap;margin:8px 0">{"".join(sides)}</div>'
    return (
        card(f"{_headline(found, step)}{pair}<div>{key}</div>")
        + _counts(found, step, own)
        + _say(found, step, own)
    )


def _headline(found: Trace, step: int) -> str:
    if step == 0:
        what = f"<b>Prefill</b>: the {found.prompt} tokens of the prompt go in together."
    else:
        token = token_html(found.tokens[found.prompt + step - 1])
        what = f"<b>Decode, step {step} of {found.steps}</b>: the newest token is <code>{token}</code>."
    return f"<div>{what}</div>"


def _table(tokens: Sequence[str], rows: list[tuple[Cell, Cell, Cell]]) -> str:
    head = "".join(f'<th scope="col" style="width:52px;text-align:center">{name}</th>' for name in "QKV")
    body = []
    for token, cells in zip(tokens, rows, strict=True):
        label = f'<th scope="row" style="{_LABEL}">{token_html(token)}</th>'
        body.append(f"<tr>{label}{''.join(map(_cell, cells))}</tr>")
    style = f"border-collapse:separate;border-spacing:2px;color:{INK};background:{BACKGROUND};line-height:1.5"
    head = f"<thead><tr><th></th>{head}</tr></thead>"
    return f'<table style="{style}">{head}<tbody>{"".join(body)}</tbody></table>'


_LABEL = "text-align:right;font-weight:normal;padding-right:8px"


def _cell(cell: Cell) -> str:
    edge = f"box-shadow:inset 0 0 0 3px {OCHRE};" if cell.written else ""
    ink = "#FFFFFF" if cell.marks else QUIET
    style = f"background:{cell.colour};color:{ink};{edge}text-align:center;letter-spacing:2px"
    return f'<td style="{style}">{cell.marks or "·"}</td>'


def _counts(found: Trace, step: int, own: bool) -> str:
    rows = []
    sides: dict[Side, bool] = {"naive": True, "cached": own}
    now = {s: counters(found.config, s, found.prompt, step, found.itemsize, o) for s, o in sides.items()}
    all_ = {s: total(found.config, s, found.prompt, step, found.itemsize, o) for s, o in sides.items()}
    for name, of in (
        ("token rows computed", lambda c: f"{c.rows:,}"),
        ("FLOPs (10⁹)", lambda c: f"{c.flops / 1e9:.2f}"),
        ("keys and values read (KB)", lambda c: f"{c.read / 1e3:,.0f}"),
        ("cache holds (KB)", lambda c: f"{c.held / 1e3:,.0f}"),
    ):
        rows.append((name, of(now["naive"]), of(now["cached"]), of(all_["naive"]), of(all_["cached"])))
    rows[-1] = (*rows[-1][:3], "", "")
    columns = ("", "naive, this step", "cached, this step", "naive, so far", "cached, so far")
    return plain_table(rows, columns, caption=f"Counted for {found.config.name}, all layers")


def _say(found: Trace, step: int, own: bool) -> str:
    word, p = found.words[step]
    text = f"Next word, on both sides: <code>{token_html(word)}</code> {p:.0%}."
    if own:
        return card(text)
    if step == 0:
        return card(f"{text} The toggle acts on decode steps: take one.")
    other, q = found.without[step]
    text = f"Next word, naive: <code>{token_html(word)}</code> {p:.0%}. Cached, own K and V left out: "
    text += f"<code>{token_html(other)}</code> {q:.0%}; the largest logit error is {found.errors[step]:.1f}."
    return card(text, OCHRE)


@styled
def stepper_figure(found: Trace, step: int) -> Drawing:
    """The two grids as a picture, for places where no widget runs."""
    tokens = found.tokens[: found.prompt + step]
    alt = f"step {step}: naive decoding computes {len(tokens)} token rows, with a cache 1"
    figure, axes = drawing(7.4, 1.1 + 0.3 * len(tokens), alt=alt, columns=2)
    for ax, (side, name) in zip(axes, NAMES.items(), strict=True):
        for y, cells in enumerate(grid(side, found.prompt, step)):
            for x, cell in enumerate(cells):
                edge = OCHRE if cell.written else "white"
                box = Rectangle(
                    (x - 0.44, y - 0.42), 0.88, 0.84, facecolor=cell.colour, edgecolor=edge, linewidth=2
                )
                ax.add_patch(box)
                ink = "white" if cell.marks else QUIET
                ax.text(x, y, cell.marks or "·", ha="center", va="center", color=ink, fontsize=9)
        ax.set_xlim(-0.6, 2.6)
        ax.set_ylim(len(tokens) - 0.4, -0.6)
        ax.set_xticks(range(3), "QKV")
        ax.set_yticks(range(len(tokens)), [token_text(t) for t in tokens])
        ax.tick_params(length=0)
        ax.xaxis.tick_top()
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title(name, fontsize=10)
    key = "c: computed (rust: again)    r: read by the newest query    w: written into the cache"
    figure.supxlabel(key, fontsize=9, color=QUIET)
    return figure


class Stepper(Exhibit):
    """Controls: `.slider`, `.next` (button), `.forget` (checkbox); `.view.html.value` is what they show."""

    def __init__(self, found: Trace, step: int = 3) -> None:
        self.slider = IntSlider(description="step", max=found.steps, value=step)
        self.next = Button(description="Next step", tooltip="After the last step: the prompt again")
        self.forget = Checkbox(
            description="forget own K, V", indent=False, layout=Layout(width="max-content")
        )
        self.next.on_click(lambda _button: self._next())
        self.view = live(lambda at, forget: draw(found, at, own=not forget), self.slider, self.forget)
        row = HBox([self.slider, self.next, self.forget], layout=Layout(align_items="center"))
        title = "Stepper: naive and cached decoding side by side"
        super().__init__([row, self.view], title=title, picture=lambda: stepper_figure(found, step))

    def _next(self) -> None:
        self.slider.value = (self.slider.value + 1) % (self.slider.max + 1)


def stepper(found: Trace, step: int = 3) -> Stepper:
    """The widget over a `trace`."""
    return Stepper(found, step)
