"""The interpreter: pick a number, step through the words; the alignment fills and the work adds up."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from ipywidgets import BoundedIntText, Button, Dropdown, HBox, IntSlider, Layout, ToggleButtons

from kvlab.translation.languages import LARGEST

from .figures import as_array
from .l11 import WAYS, Trace, trace_number, work
from .l11_figures import KEPT, OF_WAY
from .style import ATTENTION, ATTENTION_NORM, Drawing, drawing, styled
from .tables import card, heat_table, inline, plain_table
from .widgets import Exhibit, live

if TYPE_CHECKING:
    from kvlab.model.translator import Translator


def counters(found: Trace, words: int, lm: Translator) -> list[tuple[str, int, int, int, int]]:
    """After so many words: way, encoder rows, source rows, target rows, multiply-adds."""
    counted = []
    for way, rows in found.rows.items():
        encoder, source, target = (sum(part[:words]) for part in (rows.encoder, rows.source, rows.target))
        counted.append((way, encoder, source, target, work(lm.config, rows, words)))
    return counted


def shown(found: Trace, words: int, way: str, lm: Translator) -> str:
    """The alignment so far, what was said, and the counters of every way, the chosen one in bold, as HTML."""
    map = as_array(found.map)
    map[words:] = np.nan
    said = lm.tokenizer.decode([lm.tokenizer.ids[w] for w in found.target[:words]], found.to)
    table = heat_table(
        map, found.target, found.source, caption="Who looks at whom: rows are said, columns were read",
        corner="said \\ source",
    )  # fmt: skip
    rows = []
    for name, encoder, source, target, work_done in counters(found, words, lm):
        cells = (KEPT[name], f"{encoder}", f"{source}", f"{target}", f"{work_done / 1e6:.2f} M")
        rows.append(tuple(f"**{cell}**" for cell in cells) if name == way else cells)
    columns = ("kept", "encoder rows", "source rows → K, V", "target rows", "multiply-adds")
    done = plain_table(rows, columns, caption=f"Work after {words} of {len(found.target)} words")
    says = inline(f"said so far: **{said or '…'}**") + _sentence(found, words, way)
    return card(says, OF_WAY[way]) + table + done


def _sentence(found: Trace, words: int, way: str) -> str:
    if not words:
        return "<br>" + inline("Nothing was said yet. With the first word the encoder reads the source.")
    rows, n = found.rows[way], words - 1
    encoder = rows.encoder[n] if n < len(rows.encoder) else 0
    source = rows.source[n] if n < len(rows.source) else 0
    parts = f"{encoder} encoder, {source} source and {rows.target[n]} target rows"
    return "<br>" + inline(f"This word, with {KEPT[way]}: {parts}.")


@styled
def interpreter_figure(found: Trace, words: int, lm: Translator) -> Drawing:
    """The alignment so far and the work so far as a picture, for places where no widget runs."""
    alt = f"the alignment after {words} of {len(found.target)} words, and the multiply-adds by what is kept"
    figure, (left, right) = drawing(8.4, 3.2, alt=alt, columns=2)
    map = as_array(found.map)
    map[words:] = np.nan
    left.imshow(map, cmap=ATTENTION, norm=ATTENTION_NORM)
    left.set_xticks(range(len(found.source)), found.source, rotation=90, fontsize=8)
    left.set_yticks(range(len(found.target)), found.target, fontsize=8)
    left.set(xlabel="word of the source", ylabel="word said", title="Who looks at whom")
    left.grid(False)
    for y, (way, *_, done) in enumerate(counters(found, words, lm)):
        right.barh(y, done / 1e6, color=OF_WAY[way])
        right.text(done / 1e6, y, f" {done / 1e6:.1f} M", va="center", fontsize=9)
    right.set_yticks(range(len(KEPT)), list(KEPT.values()))
    right.invert_yaxis()
    right.margins(x=0.2)
    right.set(xlabel="multiply-adds (millions)", title=f"Work after {words} words")
    right.grid(visible=False, axis="y")
    return figure


class Interpreter(Exhibit):
    """`.number`, `.languages`, `.words`, `.next`, `.kept`; `.view.html.value` is what they show."""

    def __init__(self, lm: Translator, number: int, languages: str, words: int) -> None:
        self.lm = lm
        self._trace = functools.lru_cache(maxsize=32)(functools.partial(trace_number, lm))
        codes = list(lm.tokenizer.languages)
        pairs = [f"{of} → {to}" for of in codes for to in codes if of != to]
        self.number = BoundedIntText(number, min=0, max=LARGEST, description="number")
        self.languages = Dropdown(options=pairs, value=languages, description="languages")
        self.words = IntSlider(words, max=len(self.found().target), description="words")
        self.next = Button(description="Next word", tooltip="After the last word: the beginning again")
        self.kept = ToggleButtons(options=[(KEPT[way], way) for way in WAYS], value="self + cross")
        self.next.on_click(lambda _button: self._next())
        for control in (self.number, self.languages):
            control.observe(lambda _change: self._fit(), names="value")
        self.view = live(self._draw, self.number, self.languages, self.words, self.kept)
        row = HBox([self.words, self.next], layout=Layout(align_items="center"))
        super().__init__(
            [HBox([self.number, self.languages]), row, self.kept, self.view],
            title="Interpreter: the alignment and the work, word by word",
            picture=functools.partial(self._drawn, number, languages, words),
        )

    def found(self) -> Trace:
        """The translation that is shown."""
        of, to = self.languages.value.split(" → ")
        return self._trace(self.number.value, of, to)

    def _fit(self) -> None:
        self.words.max = len(self.found().target)

    def _next(self) -> None:
        self.words.value = (self.words.value + 1) % (self.words.max + 1)

    def _draw(self, number: int, languages: str, words: int, way: str) -> str:
        found = self.found()
        return shown(found, min(words, len(found.target)), way, self.lm)

    def _drawn(self, number: int, languages: str, words: int) -> Drawing:
        of, to = languages.split(" → ")
        return interpreter_figure(self._trace(number, of, to), words, self.lm)


def interpreter(lm: Translator, number: int = 342, languages: str = "en → de", words: int = 3) -> Interpreter:
    """The widget over a translator."""
    return Interpreter(lm, number, languages, words)
