"""The rank dial: a page in so many directions of some basis, and what the model says then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from ipywidgets import HTML, Button, HBox, IntSlider, ToggleButtons, VBox
from matplotlib.patches import Rectangle
from torch import Tensor

import kvlab
from kvlab.cache import CodecPair
from kvlab.codecs import OwnBasis
from kvlab.measure.quality_runs import Prompt, continuation
from kvlab.measure.watch import seen_by

from .l14 import Seen
from .l15 import KINDS, SINK, TOKENS, Basis, basis_bytes, coordinate_bytes, float16_bytes, kind, seen
from .style import BLUE, GRID, INK, OCHRE, QUIET, RUST, Drawing, drawing, styled
from .tables import card, inline
from .widgets import Exhibit, live, on_click

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

BASES = ("other text", "own", "after rotary")
FIRST = ("docs", "other text", 32, 48)  # page, basis, ranks: what is shown first
NEW = 14  # tokens that are decoded


@dataclass(frozen=True)
class Setting:
    """Where the dial stands."""

    page: str
    basis: str
    keys: int
    values: int


class Page:
    """A text and the basis of its own; and, once somebody asks for it, what the full cache says after it."""

    def __init__(self, lm: Decoder, ids: Tensor) -> None:
        self.lm, self.ids = lm, ids  # [1, tokens]
        self.found = seen(lm, ids[0].tolist())
        self.own = {name: Basis.of(kind(self.found, name)) for name in KINDS}

    @cached_property
    def _taken(self) -> tuple[Prompt, int]:
        """The prompt, and the token after it: attended exactly, so it is the same for every cache."""
        with seen_by([self.lm.norm]) as hidden:
            prompt = Prompt.take(self.lm, self.ids)
        return prompt, int(self.lm.head(hidden[0][:, -1:]).argmax())

    @cached_property
    def _exact(self) -> tuple[Tensor, Tensor]:
        """The full cache's words, and what it has before its output head after each, `[1, NEW, hidden]`."""
        _ = self._taken  # not what the prompt has there
        with seen_by([self.lm.norm]) as hidden:
            found = self.say(None, NEW + 1)
        return found[:, :NEW], torch.cat(hidden, dim=1)

    @property
    def full(self) -> Tensor:
        """The full cache's words, `[1, NEW]`, greedy."""
        return self._exact[0]

    def say(self, codec: CodecPair, tokens: int = NEW) -> Tensor:
        """The most probable next tokens behind a cache, `[1, tokens]`."""
        prompt, first = self._taken
        cache, found = prompt.fill(self.lm, kvlab.Cache(self.lm, codec=codec)), [first]
        while len(found) < tokens:
            logits = self.lm(torch.tensor([found[-1:]], device=self.lm.device), cache)
            found.append(int(logits[0, -1].argmax()))
        return torch.tensor([found], device=self.lm.device)

    def kl(self, codec: CodecPair) -> float:
        """Nats a token, on the full cache's own words."""
        cache = kvlab.Cache(self.lm, codec=codec)
        return float(continuation(self.lm, cache, self._taken[0], *self._exact)["kl"][0])


@dataclass(frozen=True)
class Reading:
    """What the dial shows of a setting. Bytes are of one token, all layers."""

    energy: tuple[float, float]  # of keys, of values: of the squares about the mean
    error: tuple[float, float]  # relative
    keys: float
    values: float
    basis: float  # spread over the tokens of this page
    basis_whole: int

    @property
    def total(self) -> float:
        return self.keys + self.values + self.basis


class Scene:
    """Pages and bases, with energy and error at every rank computed beforehand."""

    def __init__(self, lm: Decoder, taught: Seen, texts: dict[str, list[int]]) -> None:
        self.lm = lm
        self.pages = {name: Page(lm, torch.tensor([ids], device=lm.device)) for name, ids in texts.items()}
        self.taught = {name: Basis.of(kind(taught, name)) for name in KINDS}
        self.curves: dict[tuple[str, str], tuple[list[Tensor], list[Tensor]]] = {}
        for page, one in self.pages.items():
            for basis in BASES:
                pairs = [(self._basis(page, basis, k), kind(one.found, k)) for k in self._kinds(basis)]
                self.curves[page, basis] = ([b.energy(x) for b, x in pairs], [b.error(x) for b, x in pairs])
        self.heard: dict[Setting, tuple[float, str]] = {}

    def _kinds(self, basis: str) -> tuple[str, str]:
        return (KINDS[1] if basis == "after rotary" else KINDS[0]), KINDS[2]

    def _basis(self, page: str, basis: str, name: str) -> Basis:
        return self.pages[page].own[name] if basis == "own" else self.taught[name]

    def read(self, s: Setting) -> Reading:
        """Energy, error and bytes: looked up."""
        energy, error = self.curves[s.page, s.basis]
        c = self.lm.config
        whole = basis_bytes(c, s.keys, s.values)
        return Reading(
            (float(energy[0][s.keys]), float(energy[1][s.values])),
            (float(error[0][s.keys]), float(error[1][s.values])),
            coordinate_bytes(c, s.keys, 0), coordinate_bytes(c, 0, s.values), whole / TOKENS, whole,
        )  # fmt: skip

    def codec(self, s: Setting) -> CodecPair:
        """What a cache at this setting takes."""
        if s.basis == "own":
            return OwnBasis(s.keys, TOKENS, 0, SINK), OwnBasis(s.values, TOKENS, 0, SINK, plain_keys=False)
        keys, values = (self.taught[name] for name in self._kinds(s.basis))
        return keys.codec("keys", s.keys, s.basis != "after rotary"), values.codec("values", s.values, False)

    def hear(self, s: Setting) -> tuple[float, str]:
        """KL and the next words, through a real cache; kept."""
        if s not in self.heard:
            page, codec = self.pages[s.page], self.codec(s)
            self.heard[s] = page.kl(codec), self.lm.tokenizer.decode(page.say(codec)[0].tolist())
        return self.heard[s]


@styled
def dial_figure(scene: Scene, s: Setting) -> Drawing:
    """Energy against rank with both ranks marked, and the bytes of a token beside float16."""
    words = "energy of keys and values against rank, and bytes a token by what they are for"
    figure, (curves, ax) = drawing(8.8, 2.9, alt=words, columns=2, width_ratios=[1, 1.25])
    dim, whole = scene.lm.config.head_dim, float16_bytes(scene.lm.config)
    for colour in (BLUE, RUST):
        curves.plot(range(dim + 1), [0.0] * (dim + 1), color=colour, linewidth=1.8)
        curves.plot(0, 0, "o", color=colour, markersize=8)
    curves.set(xlim=(0, dim), ylim=(-0.05, 1.03), xlabel="rank", ylabel="energy that comes back")
    curves.set_xticks(range(0, dim + 1, max(1, dim // 4)))
    for name, y, colour in (("keys", 0.12, BLUE), ("values", 0.02, RUST)):
        curves.annotate(
            name, (0.97, y), xycoords="axes fraction", ha="right", color=colour, fontweight="bold"
        )
    for colour in (BLUE, RUST, OCHRE):
        ax.barh([0], [0], 0.5, color=colour)
    ax.barh([1], [whole], 0.5, color=GRID)
    ax.set_yticks([0, 1], ["this cache", "float16"])
    ax.invert_yaxis()
    ax.set_xlim(0, 2 * whole)
    ax.set_xticks([0, whole / 2, whole, 1.5 * whole], ["0", "½", "1", "1½"])
    ax.set_xlabel("bytes a token, of float16's")
    ax.grid(axis="y", visible=False)
    for y in (0, 1):
        ax.text(whole if y else 0, y, f" {whole:,}" if y else "", va="center", color=QUIET if y else INK)
    return redraw(figure, scene, s)


@styled
def redraw(figure: Drawing, scene: Scene, s: Setting) -> Drawing:
    """The same figure at another setting."""
    found, (curves, ax) = scene.read(s), figure.axes
    for i, (y, rank) in enumerate(zip(scene.curves[s.page, s.basis][0], (s.keys, s.values), strict=True)):
        curves.lines[2 * i].set_ydata(y.tolist())
        curves.lines[2 * i + 1].set_data([rank], [float(y[rank])])
    curves.set_title(f"keys {found.energy[0]:.2f}, values {found.energy[1]:.2f}", fontsize=10)
    left = 0.0
    for patch, size in zip(ax.patches[:3], (found.keys, found.values, found.basis), strict=True):
        assert isinstance(patch, Rectangle)
        patch.set(x=left, width=size)
        left += size
    ax.texts[0].set(x=left, text=f" {found.total:,.0f}")
    ax.set_title(f"errors: keys {found.error[0]:.0%}, values {found.error[1]:.0%}", fontsize=10)
    return figure


def heard(scene: Scene, s: Setting) -> str:
    """Bytes of the basis, next words and KL as HTML, or what to do for them."""
    found, page = scene.read(s), scene.pages[s.page]
    whose = "of every 256 tokens by itself" if s.basis == "own" else "once, for all texts"
    lines = [
        f"basis: {found.basis_whole / 1e3:,.0f} KB, {whose} (ochre: spread over this page's {TOKENS} tokens)",
        f"full cache: `{page.lm.tokenizer.decode(page.full[0].tolist())!r}`",
    ]
    if s in scene.heard:
        kl, text = scene.heard[s]
        lines += [f"this cache: `{text!r}`, KL {kl:.3f} nats a token"]
    else:
        lines += ["Press **decode** to run the model on this cache."]
    return card("<br>".join(inline(line) for line in lines))


class RankDial(Exhibit):
    """`.page`, `.basis`, `.rank_k`, `.rank_v` are the controls, `.button` runs the model."""

    def __init__(self, scene: Scene) -> None:
        page, basis, keys, values = FIRST
        dim, self.scene = scene.lm.config.head_dim, scene
        self.page = ToggleButtons(options=list(scene.pages), value=page, description="page")
        self.basis = ToggleButtons(options=BASES, value=basis, description="basis")
        self.rank_k = IntSlider(min(keys, dim), min=1, max=dim, description="keys")
        self.rank_v = IntSlider(min(values, dim), min=1, max=dim, description="values")
        self.button = Button(description="decode")
        controls = (self.page, self.basis, self.rank_k, self.rank_v)
        scene.hear(self.setting)  # the state that is shown first
        figure = dial_figure(scene, self.setting)
        self.view = live(self._draw(lambda scene, s: redraw(figure, scene, s)), *controls)
        self.heard = live(self._draw(heard), *controls)
        says: HTML = on_click(self.button, self._hear)
        box = VBox([self.page, self.basis, HBox([self.rank_k, self.rank_v, self.button])])
        super().__init__(
            [box, self.view, self.heard, says],
            title="Rank dial: ranks of keys and values, whose basis, which page",
            picture=partial(dial_figure, scene, self.setting),
        )

    @property
    def setting(self) -> Setting:
        return Setting(self.page.value, self.basis.value, self.rank_k.value, self.rank_v.value)

    def _draw(self, draw: Callable[[Scene, Setting], Drawing | str]) -> Callable[..., Drawing | str]:
        return lambda *_: draw(self.scene, self.setting)

    def _hear(self) -> None:
        self.scene.hear(self.setting)
        self.heard.refresh()
